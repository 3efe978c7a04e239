package status

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

const mostReport = 2 << 20 // bytes

// Ask asks the box at a status address how it is, and gives its report and the JSON as it came. With a box, facility/name, only that one
// is believed: on a machine with several, or after a change of address, another one may answer.
func Ask(ctx context.Context, addr, box string) (r Report, text []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/status", nil)
	if err != nil {
		return r, nil, fmt.Errorf("cannot ask %s: %w", addr, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return r, nil, fmt.Errorf("cannot reach the box at %s: %w; is vitalgate run running?", addr, err)
	}
	defer resp.Body.Close()
	if text, err = io.ReadAll(io.LimitReader(resp.Body, mostReport)); err != nil {
		return r, nil, fmt.Errorf("cannot read the box's answer: %w", err)
	}
	if err := json.Unmarshal(text, &r); err != nil || r.Box == "" {
		return r, nil, fmt.Errorf("cannot read the answer of %s: it is no box's (%s); another program may have the address: set status.listen to a free one", addr, resp.Status)
	}
	if box != "" && r.Box != box {
		return r, nil, fmt.Errorf("cannot tell how box %s is: another box (%s) answers at %s; give each box of one machine its own status.listen", box, r.Box, addr)
	}
	return r, text, nil
}
