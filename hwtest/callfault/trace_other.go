//go:build !(linux && amd64)

package main

import (
	"errors"
	"os"
)

type watch struct {
	*command
	dir  string
	list *os.File
}

func (*watch) trace() (int, error) {
	return 0, errors.New("cannot follow a program here: this is made for Linux on amd64")
}
