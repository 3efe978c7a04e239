package status

import (
	"encoding/json"
	"os"
)

// SystemVariable is how the first process of a box tells the line facts of the image, such as the slot.
const SystemVariable = "VITALGATE_SYSTEM"

// FormatSystem is the value of SystemVariable.
func FormatSystem(facts map[string]string) string {
	b, err := json.Marshal(facts)
	if err != nil {
		return ""
	}
	return string(b)
}

// System are the facts that this process was told; none outside of an image.
func System() map[string]string {
	var facts map[string]string
	if json.Unmarshal([]byte(os.Getenv(SystemVariable)), &facts) != nil {
		return nil
	}
	return facts
}
