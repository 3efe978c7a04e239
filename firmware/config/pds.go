package config

import (
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/fhir/mapping"
)

// checkPDS reports what is wrong with the keys of a Mindray bedside monitor, or with their standing at another one.
func (m *Monitor) checkPDS(bad func(key, format string, a ...any)) {
	if m.Kind != "mindray-pds" {
		if m.Beacon != "" {
			bad("beacon", "is for mindray-pds monitors; this one is %s", m.Kind)
		}
		return
	}
	if d, err := Dialect(m.Dialect); err == nil && d.Ack != "none" {
		bad("dialect", "is %q, whose messages are acknowledged; kind mindray-pds wants dialect = \"mindray-pds\"", m.Dialect)
	}
	if m.Framing != "" && m.Framing != "mllp" {
		bad("framing", "is %q; a mindray-pds monitor speaks mllp", m.Framing)
	}
	if host, port, err := net.SplitHostPort(m.Address); err == nil {
		if m.Beacon == "" && (port == "0" || port == "") {
			bad("address", "%q needs the monitor's port, mostly 4601, or a beacon that announces it", m.Address)
		}
		if _, err := netip.ParseAddr(host); m.Beacon != "" && err != nil {
			bad("address", "%q must give the IP address of the monitor, because its beacon is believed from there only", m.Address)
		}
	}
	if m.Beacon != "" {
		if _, _, err := net.SplitHostPort(m.Beacon); err != nil {
			bad("beacon", "%q is not host:port, such as 0.0.0.0:4600", m.Beacon)
		}
	}
	if m.Query != "all" && m.Query != "known" {
		for _, n := range strings.Fields(m.Query) {
			if len(n) > 6 || strings.Trim(n, "0123456789") != "" {
				bad("query", "%q is no parameter number; write all, known, or numbers such as \"101 151 160\"", n)
			}
		}
		if len(strings.Fields(m.Query)) == 0 {
			bad("query", "asks for nothing; write all, known, or numbers such as \"101 151 160\"")
		}
	}
	oneOf(bad, "query_again", m.QueryAgain, "keep-alive", "no")
	if m.QueryInterval != 0 && m.QueryInterval < Duration(time.Second) {
		bad("query_interval", "is %v, must be 0s or at least 1s", m.QueryInterval)
	}
	if m.ReadIdle != 0 && m.ReadIdle < Duration(2*time.Second) {
		bad("read_idle", "is %v, must be 0s or at least 2s: the monitor's keep-alive comes each second", m.ReadIdle)
	}
}

// Asked are the parameters to ask a mindray-pds monitor of dialect d for; none are all that it has.
func (m *Monitor) Asked(d *mapping.Dialect) []string {
	switch m.Query {
	case "all":
		return nil
	case "known":
		return d.Numbers()
	}
	return strings.Fields(m.Query)
}
