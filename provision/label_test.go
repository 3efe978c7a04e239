package main

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"

	"github.com/vitalgate/vitalgate/provision/protocol"
)

func aLabel() protocol.Label {
	return protocol.Label{Key: strings.Repeat("78RSQP7FSBVYN", 4), Claim: "HZAHEAQ7EMXGME30"}
}

// scan reads a QR code as a phone does.
func scan(t *testing.T, img image.Image) string {
	t.Helper()
	bits, err := gozxing.NewBinaryBitmapFromImage(img)
	if err != nil {
		t.Fatal(err)
	}
	r, err := qrcode.NewQRCodeReader().Decode(bits, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_TRY_HARDER: true})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetText()
}

func TestTheLabelCanBeScanned(t *testing.T) {
	var b bytes.Buffer
	if err := drawPNG(&b, aLabel()); err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	if got := scan(t, img); got != aLabel().String() {
		t.Errorf("the QR code says %q", got)
	}
	// A label that was scratched: a band of the code is gone.
	g := img.(*image.Gray)
	side := g.Rect.Dy()
	for y := side * 60 / 100; y < side*66/100; y++ {
		for x := side * 40 / 100; x < side*80/100; x++ {
			g.SetGray(x, y, color.Gray{255})
		}
	}
	if got := scan(t, g); got != aLabel().String() {
		t.Errorf("the scratched QR code says %q", got)
	}
}

var square = regexp.MustCompile(`(?m)^([0-9.]+) ([0-9.]+) ([0-9.]+) ([0-9.]+) re$`)

// TestThePDFCanBeScanned draws the squares of the page and scans them; where poppler is, its rendering too.
func TestThePDFCanBeScanned(t *testing.T) {
	var b bytes.Buffer
	if err := drawPDF(&b, aLabel()); err != nil {
		t.Fatal(err)
	}
	const scale, height = 8, 29 * 72 / 25.4
	img := image.NewGray(image.Rect(0, 0, 90*scale, 90*scale))
	for i := range img.Pix {
		img.Pix[i] = 255
	}
	found := square.FindAllSubmatch(b.Bytes(), -1)
	if len(found) < 200 {
		t.Fatalf("only %d squares", len(found))
	}
	for _, m := range found {
		var v [4]float64
		for i := range v {
			v[i], _ = strconv.ParseFloat(string(m[i+1]), 64)
		}
		for y := int((height - v[1] - v[3]) * scale); y < int((height-v[1])*scale); y++ {
			for x := int(v[0] * scale); x < int((v[0]+v[2])*scale); x++ {
				img.SetGray(x, y, color.Gray{})
			}
		}
	}
	if got := scan(t, img); got != aLabel().String() {
		t.Errorf("the QR code says %q", got)
	}
	l := aLabel()
	for _, want := range []string{l.Name(), protocol.Groups(l.Claim), protocol.Groups(l.Key[:protocol.ShortKey])[:14]} {
		if !bytes.Contains(b.Bytes(), []byte(want)) {
			t.Errorf("the label does not say %q", want)
		}
	}
	if _, err := exec.LookPath("pdftoppm"); err != nil {
		t.Skip("pdftoppm (poppler-utils) is missing: the PDF was not rendered by another program")
	}
	path := filepath.Join(t.TempDir(), "label.pdf")
	if err := writeNew(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("pdftoppm", "-png", "-r", "300", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := png.Decode(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	if got := scan(t, rendered); got != aLabel().String() {
		t.Errorf("rendered, the QR code says %q", got)
	}
}
