package mapping

import (
	"strings"

	"github.com/vitalgate/vitalgate/fhir"
	"github.com/vitalgate/vitalgate/hl7"
)

// device is a monitor, or another piece of equipment that a row names.
type device struct {
	key  string
	id   string
	ids  []fhir.Identifier
	name string
	typ  *term // from its MDS row
	urn  string
}

// node is a part of a device: a VMD or a channel, from a row that carries no value (uv-pocd, OBX-4 containment).
type node struct {
	path   string // "1.13" or "1.13.1"
	device int32
	id     string
	code   ident
	parent int32 // node, -1 the device itself
}

// metric is what a channel measures.
type metric struct {
	id     string
	row    int32
	device int32
	parent int32 // node
}

// systemEUI64 is the identifier system of EUI-64 device numbers (uv-pocd and PHD IG examples).
const systemEUI64 = "urn:oid:1.2.840.10004.1.1.1.0.0.1.0.0.1.2680"

// systemMAC is the identifier system of MAC addresses used as device numbers.
const systemMAC = "http://hl7.org/fhir/sid/eui-48/ethernet"

// scope says that a row which describes a device or a part of one named the equipment of all below it.
type scope struct {
	path   string
	device int32
}

// equipment gives the device of a row: OBX-18, else what the row of the device or part that contains it named (IHE DEV
// TF Vol. 2 §B.8: OBX-18 stands at the MDS or VMD and holds for what is below), else what an earlier row of the same OBR
// named, else the sender.
func (c *Converter) equipment(s hl7.Segment, channel string, g *group) int32 {
	if ei := s.Field(18).Rep(1); !ei.Empty() {
		if d := c.deviceEI(ei.Comp(1), ei.Comp(2), ei.Comp(3), ei.Comp(4)); d >= 0 {
			if strings.HasSuffix(channel, ".0") && strings.Count(channel, ".") == 3 && len(c.scopes) < maxDevices {
				c.scopes = append(c.scopes, scope{trimZeros(channel), d})
			} else {
				g.device = d
			}
			return d
		}
	}
	found, length := int32(-1), 0
	for _, sc := range c.scopes {
		if len(sc.path) > length && len(channel) > len(sc.path) && channel[:len(sc.path)] == sc.path && channel[len(sc.path)] == '.' {
			found, length = sc.device, len(sc.path)
		}
	}
	if found >= 0 {
		return found
	}
	if g.device < 0 {
		g.device = c.sender()
	}
	return g.device
}

// sender gives the device of MSH-3, MSH-4: what has no number at all is the configured monitor.
func (c *Converter) sender() int32 {
	h := c.m.Header()
	app := h.Field(3)
	if d := c.deviceEI(app.Comp(2), app.Comp(1), app.Comp(2), app.Comp(3)); d >= 0 {
		return d
	}
	name := c.text(app.Comp(1))
	if name == "" {
		name = c.text(app.Comp(2))
	}
	facility := c.text(h.Field(4).Comp(1))
	key := c.join("monitor\x00", c.at.Monitor, "\x00", name, "\x00", facility)
	if d := c.findDevice(key); d >= 0 {
		return d
	}
	d := device{key: key, name: name}
	if d.name == "" {
		d.name = c.at.Monitor
	}
	if c.at.Monitor != "" {
		first := len(c.ids)
		c.ids = append(c.ids, fhir.Identifier{System: c.at.DeviceSystem, Value: c.at.Monitor})
		d.ids = c.ids[first:len(c.ids):len(c.ids)]
	}
	return c.addDevice(d)
}

func (c *Converter) findDevice(key string) int32 {
	for i := range c.devices {
		if c.devices[i].key == key {
			return int32(i)
		}
	}
	return -1
}

func (c *Converter) addDevice(d device) int32 {
	d.id = c.uuid("device", c.at.Box, d.key)
	d.urn = c.urn(d.id)
	c.devices = append(c.devices, d)
	return int32(len(c.devices) - 1)
}

// maxDevices bounds the devices of one message; a row of a further one belongs to the sender.
const maxDevices = 64

// deviceEI gives the device of an entity identifier (OBX-18) or hierarchic designator (MSH-3), -1 where it is empty.
func (c *Converter) deviceEI(id, namespace, universal, typ hl7.Value) int32 {
	entity, name, uid, kind := c.text(id), c.text(namespace), c.text(universal), c.text(typ)
	if entity == "" && uid == "" {
		return -1
	}
	if entity == "" {
		entity = uid
	}
	ident := fhir.Identifier{Value: entity, System: c.at.DeviceSystem}
	switch {
	case kind == "EUI-64" && (isHex(uid, 16) || isHex(entity, 16)):
		if isHex(entity, 16) {
			uid = entity
		}
		ident = fhir.Identifier{System: systemEUI64, Value: c.dashed(uid)}
	case kind == "" && isHex(entity, 16):
		ident = fhir.Identifier{System: systemEUI64, Value: c.dashed(entity)}
	case isMAC(entity):
		ident = fhir.Identifier{System: systemMAC, Value: entity}
	case uid != "" && uid != entity:
		if system := c.universal(uid, kind); system != "" {
			ident.System = system
		} else if kind == "EUI-64" || kind == "DNS" {
			ident.Assigner = uid
		}
	}
	key := c.join(ident.System, "\x00", ident.Value)
	if d := c.findDevice(key); d >= 0 {
		return d
	}
	if len(c.devices) >= maxDevices {
		return 0
	}
	first := len(c.ids)
	c.ids = append(c.ids, ident)
	d := device{key: key, ids: c.ids[first:len(c.ids):len(c.ids)]}
	if name != entity {
		d.name = name
	}
	return c.addDevice(d)
}

func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := 0; i < n; i++ {
		if !strings.ContainsRune("0123456789abcdefABCDEF", rune(s[i])) {
			return false
		}
	}
	return true
}

// isMAC says whether s is six hexadecimal pairs with colons or dashes between.
func isMAC(s string) bool {
	if len(s) != 17 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if i%3 == 2 {
			if s[i] != ':' && s[i] != '-' {
				return false
			}
		} else if !isHex(s[i:i+1], 1) {
			return false
		}
	}
	return true
}

// dashed writes an EUI-64 as 01-23-45-67-89-AB-CD-EF.
func (c *Converter) dashed(s string) string {
	start := len(c.arena)
	for i := 0; i < len(s); i++ {
		if i > 0 && i%2 == 0 {
			c.arena = append(c.arena, '-')
		}
		b := s[i]
		if b >= 'a' && b <= 'f' {
			b -= 'a' - 'A'
		}
		c.arena = append(c.arena, b)
	}
	return c.since(start)
}

// trimZeros gives the place that an OBX-4 of the form 1.13.0.0 names: 1.13.
func trimZeros(channel string) string {
	for strings.HasSuffix(channel, ".0") {
		channel = channel[:len(channel)-2]
	}
	return channel
}

// isObject says whether an identifier names a device or a part of one: the object partition of ISO/IEEE 11073-10101, or
// a name that says so under whatever number.
func isObject(number int, name string) bool {
	return number>>16 == 1 && !strings.HasPrefix(name, "MDC_ATTR_") || strings.HasPrefix(name, "MDC_DEV_")
}

// containment takes a row that describes the device and not the patient: it has no value, its code is of the object
// partition, and the trailing zeros of OBX-4 tell the level (uv-pocd mappingv2, OBX-4). It says whether it was one.
func (c *Converter) containment(s hl7.Segment, code *ident, channel string, dev int32) bool {
	if !isObject(code.number, code.display) {
		return false
	}
	path := trimZeros(channel)
	level := strings.Count(path, ".")
	if strings.Count(channel, ".") != 3 {
		level = 0 // a profile or a device of a flat message
	}
	if level == 0 {
		if c.devices[dev].typ == nil {
			c.devices[dev].typ = code.term
		}
		return true
	}
	if level == 3 { // a metric without a value is none of this
		return false
	}
	for i := range c.nodes {
		if c.nodes[i].path == path && c.nodes[i].device == dev {
			return true
		}
	}
	if len(c.nodes) < maxDevices {
		n := node{path: path, device: dev, code: *code, parent: -1, id: c.uuid("part", c.devices[dev].id, path)}
		if up := strings.LastIndexByte(path, '.'); up >= 0 {
			n.parent = c.findNode(path[:up], dev)
		}
		c.nodes = append(c.nodes, n)
	}
	return true
}

func (c *Converter) findNode(path string, dev int32) int32 {
	for i := range c.nodes {
		if c.nodes[i].device == dev && c.nodes[i].path == path {
			return int32(i)
		}
	}
	return -1
}

// metricOf gives the place of the row's DeviceMetric, -1 where the message describes no channel for it.
func (c *Converter) metricOf(i int32) int32 {
	r := &c.rows[i]
	if len(c.nodes) == 0 {
		return -1
	}
	path := r.channel
	for range 2 {
		up := strings.LastIndexByte(path, '.')
		if up < 0 {
			return -1
		}
		path = path[:up]
		if n := c.findNode(path, r.device); n >= 0 {
			dev := c.nodes[n].device
			id := c.uuid("metric", c.devices[dev].id, r.channel, r.code.identity)
			key := hash("metric", id)
			if k, ok := c.byKey[key]; ok {
				return k
			}
			k := int32(len(c.metrics))
			c.metrics = append(c.metrics, metric{id: id, row: i, device: dev, parent: n})
			c.byKey[key] = k
			return k
		}
	}
	return -1
}

// writeDevices writes what the message's rows belong to: the devices, their described parts, the metrics, the bed.
func (c *Converter) writeDevices() {
	if len(c.devices) == 0 && len(c.patients) > 0 {
		c.sender()
	}
	if c.location.Name != "" && (len(c.devices) > 0 || len(c.patients) > 0) {
		c.entry(c.location.ID)
		c.out = fhir.EndEntry(c.location.Append(c.out))
	}
	for i := range c.devices {
		d := &c.devices[i]
		r := fhir.Device{ID: d.id, Identifier: d.ids, Name: d.name}
		if d.typ != nil {
			r.Type = c.concept("", d.typ.coding)
		}
		if c.location.Name != "" {
			r.Location.Reference = c.urn(c.location.ID)
		}
		c.entry(d.id)
		c.out = fhir.EndEntry(r.Append(c.out))
	}
	for i := range c.nodes {
		n := &c.nodes[i]
		r := fhir.Device{ID: n.id, Type: c.codeOf(&n.code), Parent: fhir.Reference{Reference: c.devices[n.device].urn}}
		if n.parent >= 0 {
			r.Parent.Reference = c.urn(c.nodes[n.parent].id)
		}
		c.entry(n.id)
		c.out = fhir.EndEntry(r.Append(c.out))
	}
	for i := range c.metrics {
		k := &c.metrics[i]
		row := &c.rows[k.row]
		r := fhir.DeviceMetric{
			ID: k.id, Type: c.codeOf(&row.code), Category: "measurement",
			Source: fhir.Reference{Reference: c.devices[k.device].urn},
			Parent: fhir.Reference{Reference: c.urn(c.nodes[k.parent].id)},
			Range:  row.limits,
		}
		if row.as == setting {
			r.Category = "setting"
		} else if row.calculated {
			r.Category = "calculation"
		}
		if u := row.unit; u != nil {
			r.Unit = c.concept("", fhir.Coding{System: fhir.SystemUCUM, Code: u.ucum})
		}
		c.entry(k.id)
		c.out = fhir.EndEntry(r.Append(c.out))
	}
}

// concept makes a CodeableConcept of one coding, in the converter's buffer.
func (c *Converter) concept(text string, coding fhir.Coding) fhir.CodeableConcept {
	first := len(c.codings)
	c.codings = append(c.codings, coding)
	return fhir.CodeableConcept{Coding: c.codings[first:len(c.codings):len(c.codings)], Text: text}
}
