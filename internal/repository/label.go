package repository

import "path"

// TimestampName is the one file of a repository that changes under its name.
const TimestampName = "metadata/timestamp.json"

// CacheControl returns the value of a file's Cache-Control header, whoever hands it out: caches
// keep everything for ever except [TimestampName], which they must ask for each time.
func CacheControl(name string) string {
	if name == TimestampName {
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
