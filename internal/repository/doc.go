// Package repository writes and reads a repository of signed slot images: a
// folder of static files that any HTTP server, CDN or object store can serve.
// Trust comes from its metadata, which follows The Update Framework (TUF),
// never from the transport. docs/design/repository.md has the details.
//
//	metadata/N.root.json       who may sign what          offline root key
//	metadata/N.targets.json    all images, with hashes    offline targets key
//	metadata/N.snapshot.json   which targets.json counts  online key
//	metadata/timestamp.json    which snapshot is current  online key, short-lived
//	targets/NAME/CLASS/VERSION/HASH.manifest   the slot manifest block
//	targets/NAME/CLASS/VERSION/HASH.index      chunk index of the blob
//	targets/NAME/CLASS/VERSION/HASH.blob       slot image without its hash tree
//
// A publisher calls [Init] or [Open] and then [Repository.Publish]. A device
// makes a [Client] and calls [Client.Refresh], which returns the [Catalog];
// [Client.OpenIndex] and [Client.Fetcher] then feed package chunk. An update
// server near its devices calls [Mirror], which needs no key.
//
// Every file but timestamp.json has a name of its own for each content and is
// never changed once it is referred to. timestamp.json is replaced last, so a
// reader sees the old state or the new one, whenever the publisher is killed.
// One publisher at a time holds the repository's lock; readers need none.
//
// The package does not serve the repository (package serve does), does not
// decide what a device installs, and deletes nothing but in [Repository.Prune].
package repository
