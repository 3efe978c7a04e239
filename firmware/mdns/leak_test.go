package mdns

import (
	"testing"

	"github.com/vitalgate/vitalgate/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
