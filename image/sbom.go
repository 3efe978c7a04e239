package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"fmt"

	"github.com/vitalgate/vitalgate/image/release"
)

// component is a part of the release (CycloneDX 1.5).
type component struct {
	Type    string `json:"type"`
	Name    string `json:"name"`
	Version string `json:"version"`
	PURL    string `json:"purl,omitempty"`
	Hashes  []hash `json:"hashes,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

// billOfMaterials lists what the release is made of: the modules linked into the program, by its own build information, the
// kernel and the stub.
func billOfMaterials(version string, program []byte, kernel release.Kernel) ([]byte, error) {
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("cannot list the parts of the program: %w; it must be built with go build", err)
	}
	parts := []component{
		{Type: "operating-system", Name: "linux", Version: kernel.Source, Hashes: []hash{{"SHA-256", kernel.SHA256}}},
		{Type: "firmware", Name: stubInput.Name, Version: stubInput.From, Hashes: []hash{{"SHA-256", stubInput.SHA256}}},
		{Type: "platform", Name: "go", Version: info.GoVersion, PURL: "pkg:golang/std@" + info.GoVersion},
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		parts = append(parts, component{Type: "library", Name: m.Path, Version: m.Version, PURL: "pkg:golang/" + m.Path + "@" + m.Version})
	}
	text, err := json.MarshalIndent(map[string]any{
		"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
		"metadata":   map[string]any{"component": component{Type: "firmware", Name: "vitalgate", Version: version}},
		"components": parts,
	}, "", "\t")
	return append(text, '\n'), err
}
