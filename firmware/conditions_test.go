package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/firmware/health"
)

// TestEveryConditionHasAKind reads the source of the box: each code that is set must be in the table of package health, and each
// kind of the table must be set somewhere.
func TestEveryConditionHasAKind(t *testing.T) {
	used := map[string]bool{}
	for _, code := range ofLink {
		used[code] = true
	}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			sel, ok := lit.Type.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "Condition" {
				return true
			}
			if pkg, ok := sel.X.(*ast.Ident); !ok || pkg.Name != "health" {
				return true
			}
			for _, e := range lit.Elts {
				kv, ok := e.(*ast.KeyValueExpr)
				if !ok {
					continue
				}
				if key, ok := kv.Key.(*ast.Ident); !ok || key.Name != "Code" {
					continue
				}
				if code, ok := kv.Value.(*ast.BasicLit); ok {
					text, _ := strconv.Unquote(code.Value)
					used[text] = true
					if _, ok := health.Lookup(text); !ok {
						t.Errorf("%s sets the condition %q, which the table in firmware/health does not know: add it there, with what a person should do", path, text)
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range health.Kinds() {
		if !used[k.Code] {
			t.Errorf("nothing sets the condition %q of the table", k.Code)
		}
	}
}
