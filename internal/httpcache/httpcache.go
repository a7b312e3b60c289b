// Package httpcache says how the files of a repository are to be labelled for HTTP caches,
// whoever hands them out: package serve itself, or an object store behind a CDN.
//
// [Control] and [ContentType] are pure functions of a file's name below the repository.
package httpcache

import "path"

// Mutable is the one file of a repository that changes under its name.
const Mutable = "metadata/timestamp.json"

// Control lets caches keep everything for ever except [Mutable], which they must ask for each
// time.
func Control(name string) string {
	if name == Mutable {
		return "no-cache"
	}
	return "public, max-age=31536000, immutable"
}

// ContentType returns the media type of a file.
func ContentType(name string) string {
	if path.Ext(name) == ".json" {
		return "application/json"
	}
	return "application/octet-stream"
}
