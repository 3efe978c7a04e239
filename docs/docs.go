// Package docs holds what programs hand out of the documentation.
package docs

import _ "embed"

// VerifyPy is docs/verify.py, the outside verifier.
//
//go:embed verify.py
var VerifyPy []byte
