package main

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
	"rsc.io/qr"

	"github.com/vitalgate/vitalgate/provision/protocol"
)

type labelCmd struct {
	Label string `arg:"" placeholder:"TEXT|@FILE" help:"Text of the label: vitalgate maintain --label on the box prints it, a presence stick brings it."`
	Out   string `short:"o" required:"" placeholder:"FILE" help:"A new file, .pdf (62 × 29 mm, for label printers) or .png."`
}

func (c labelCmd) Run() error {
	l, err := at{Label: c.Label}.label()
	if err != nil {
		return err
	}
	if len(l.Key) < 52 {
		return errors.New("cannot draw a label from a typed key: the QR code holds the whole key; give the text of the QR code")
	}
	var b bytes.Buffer
	switch strings.ToLower(filepath.Ext(c.Out)) {
	case ".pdf":
		err = drawPDF(&b, l)
	case ".png":
		err = drawPNG(&b, l)
	default:
		err = fmt.Errorf("cannot draw %s: the name must end in .pdf or .png", c.Out)
	}
	if err != nil {
		return err
	}
	if err := writeNew(c.Out, b.Bytes(), 0o600); err != nil { // it holds the claim code
		return err
	}
	fmt.Printf("%s: the label of box %s. It holds the code that lets a person in: print it, put it on the box, remove the file.\n", c.Out, l.Name())
	return nil
}

// lines of the label, under the name.
func labelLines(l protocol.Label) []string {
	key := protocol.Groups(l.Key[:protocol.ShortKey])
	return []string{"KEY   " + key[:14], "      " + key[15:], "CODE  " + protocol.Groups(l.Claim), "vitalprov wizard"}
}

// code is the QR code, with error correction for a label that is scratched and wiped (level Q restores a quarter).
func code(l protocol.Label) (*qr.Code, error) {
	c, err := qr.Encode(l.String(), qr.Q)
	if err != nil {
		return nil, fmt.Errorf("cannot make the QR code: %w", err)
	}
	return c, nil
}

const quiet = 4 // modules of white around the code (ISO/IEC 18004 §6.3.8)

// drawPNG draws the label for a screen or a plain printer.
func drawPNG(w io.Writer, l protocol.Label) error {
	c, err := code(l)
	if err != nil {
		return err
	}
	const scale, text = 8, 3
	side := (c.Size + 2*quiet) * scale
	img := image.NewGray(image.Rect(0, 0, side+side*11/10, side))
	draw.Draw(img, img.Bounds(), image.White, image.Point{}, draw.Src)
	for y := range side {
		for x := range side {
			if c.Black(x/scale-quiet, y/scale-quiet) {
				img.SetGray(x, y, color.Gray{})
			}
		}
	}
	at := image.Pt(side, quiet*scale)
	at.Y = write(img, at, "vitalgate "+l.Name(), text)
	for _, s := range labelLines(l) {
		at.Y = write(img, at, s, 2)
	}
	return png.Encode(w, img)
}

// write writes a line of text in the one font that needs no file, each of its points scale points wide, and says where the next
// line begins.
func write(img *image.Gray, at image.Point, s string, scale int) int {
	face := basicfont.Face7x13
	small := image.NewGray(image.Rect(0, 0, face.Advance*len(s), face.Height))
	d := font.Drawer{Dst: small, Src: image.White, Face: face, Dot: fixed.P(0, face.Ascent)}
	d.DrawString(s)
	for y := range small.Rect.Dy() * scale {
		for x := range small.Rect.Dx() * scale {
			if small.GrayAt(x/scale, y/scale).Y > 0 {
				img.SetGray(at.X+x, at.Y+y, color.Gray{})
			}
		}
	}
	return at.Y + (face.Height+4)*scale
}

// drawPDF draws the label for a label printer, 62 × 29 mm (PDF 1.7, ISO 32000-1): one page, squares, and Courier, which every
// reader has (§9.6.2.2).
func drawPDF(w io.Writer, l protocol.Label) error {
	c, err := code(l)
	if err != nil {
		return err
	}
	const mm = 72 / 25.4
	const width, height, square = 62 * mm, 29 * mm, 27 * mm
	module := square / float64(c.Size+2*quiet)
	var page bytes.Buffer
	for y := range c.Size {
		for x := range c.Size {
			if c.Black(x, y) {
				fmt.Fprintf(&page, "%.3f %.3f %.3f %.3f re\n", mm+float64(x+quiet)*module, height-mm-float64(y+quiet+1)*module, module, module)
			}
		}
	}
	page.WriteString("f\nBT\n")
	y := height - 6*mm
	for i, s := range append([]string{"vitalgate " + l.Name()}, labelLines(l)...) {
		face, size := "F1", 6.2
		if i == 0 {
			face, size = "F2", 6.8
		}
		fmt.Fprintf(&page, "/%s %.1f Tf 1 0 0 1 %.2f %.2f Tm (%s) Tj\n", face, size, 29*mm, y, s)
		y -= 4.4 * mm
	}
	page.WriteString("ET\n")

	objects := []string{
		"<< /Type /Catalog /Pages 2 0 R >>",
		"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
		fmt.Sprintf("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %.2f %.2f] /Contents 4 0 R /Resources << /Font << /F1 5 0 R /F2 6 0 R >> >> >>", width, height),
		fmt.Sprintf("<< /Length %d >>\nstream\n%sendstream", page.Len(), page.String()),
		"<< /Type /Font /Subtype /Type1 /BaseFont /Courier >>",
		"<< /Type /Font /Subtype /Type1 /BaseFont /Courier-Bold >>",
	}
	var out bytes.Buffer
	out.WriteString("%PDF-1.7\n")
	places := make([]int, len(objects))
	for i, o := range objects {
		places[i] = out.Len()
		fmt.Fprintf(&out, "%d 0 obj\n%s\nendobj\n", i+1, o)
	}
	xref := out.Len()
	fmt.Fprintf(&out, "xref\n0 %d\n0000000000 65535 f \n", len(objects)+1)
	for _, p := range places {
		fmt.Fprintf(&out, "%010d 00000 n \n", p)
	}
	fmt.Fprintf(&out, "trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(objects)+1, xref)
	_, err = w.Write(out.Bytes())
	return err
}

// label reads what was given of the label.
func (a at) label() (protocol.Label, error) {
	text := a.Label
	if file, ok := strings.CutPrefix(text, "@"); ok {
		b, err := os.ReadFile(file)
		if err != nil {
			return protocol.Label{}, fmt.Errorf("cannot read the label: %w", err)
		}
		text = string(b)
	}
	return protocol.ParseLabel(text)
}
