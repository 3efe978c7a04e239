package status

import (
	"encoding/json"
	"os"
)

// SystemVariable is how the first process of a box tells the line where facts of the image stand, such as the slot, and how far an
// update is: it names a JSON file, which is read anew for each report.
const SystemVariable = "VITALGATE_SYSTEM"

// WriteSystem puts the facts into the file at path, whole or not at all.
func WriteSystem(path string, facts map[string]string) error {
	b, err := json.Marshal(facts)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// System are the facts that this process is told; none outside of an image.
func System() map[string]string {
	path := os.Getenv(SystemVariable)
	if path == "" {
		return nil
	}
	b, err := os.ReadFile(path)
	var facts map[string]string
	if err != nil || json.Unmarshal(b, &facts) != nil {
		return nil
	}
	return facts
}
