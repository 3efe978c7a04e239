// Command dies is a release whose first process ends at once: the kernel panics.
package main

func main() {}
