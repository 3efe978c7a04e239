// Command never is a release that starts as it should, and whose line from monitor to network always ends by itself.
package main

import (
	"log/slog"
	"os"

	"github.com/vitalgate/vitalgate/firmware/appliance"
)

func main() {
	if appliance.IsFirstProcess() {
		appliance.Main(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	}
	os.Exit(1)
}
