package node

import (
	"testing"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
	"github.com/vitalgate/vitalgate/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m, hospital.GiveBackPorts) }
