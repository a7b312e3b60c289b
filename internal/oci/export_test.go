package oci

import "net/http"

// SecureTransport is what a registry is asked through.
func SecureTransport(next http.RoundTripper) http.RoundTripper { return secure{next} }
