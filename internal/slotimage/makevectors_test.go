package slotimage_test

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/slotimage/slotimagetest"
)

// goodJSON is spelled out, and the blocks below are put together without the
// package's own encoder, so that the two check each other.
const goodJSON = `{"name":"eos-test","class":"test-device","arch":"amd64","version":"1.0-1","build_id":"6b1d2f3c",` +
	`"data_size":8192,"image_size":16384,` +
	`"salt":"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",` +
	`"root_hash":"d1e5f0b4c2a39687d1e5f0b4c2a39687d1e5f0b4c2a39687d1e5f0b4c2a39687",` +
	`"squashfs_level":15,"compressor":"zstd","built":1700000000}`

const signingContext = "EOS slot manifest v1\x00"

// signedPart returns the first 3072 bytes of a block.
func signedPart(text string) []byte {
	b := make([]byte, 3072)
	copy(b, "EOSSLOT1")
	binary.LittleEndian.PutUint32(b[8:], 1)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(text)))
	copy(b[16:], text)
	return b
}

// sign adds the signatures part to the signed part.
func sign(signed []byte, keys ...ed25519.PrivateKey) []byte {
	var entries [][]byte
	for _, k := range keys {
		id := sha256.Sum256(k.Public().(ed25519.PublicKey))
		sig := ed25519.Sign(k, slices.Concat([]byte(signingContext), signed))
		entries = append(entries, slices.Concat(id[:], sig))
	}
	slices.SortFunc(entries, bytes.Compare)
	return withEntries(signed, entries)
}

func withEntries(signed []byte, entries [][]byte) []byte {
	b := make([]byte, 4096)
	copy(b, signed)
	binary.LittleEndian.PutUint32(b[3072:], uint32(len(entries)))
	copy(b[3076:], slices.Concat(entries...))
	return b
}

func makeVectors(t *testing.T) []vector {
	vs := slices.Concat(goodBlocks(), headerVectors(), jsonVectors(), signatureVectors(), imageVectors(t))
	for i := range vs {
		if vs[i].kind == "" {
			vs[i].kind = "block"
		}
		if vs[i].keys == nil {
			vs[i].keys = []ed25519.PublicKey{slotimagetest.Public(1)}
		}
	}
	slices.SortFunc(vs, func(a, b vector) int { return cmp.Compare(a.name, b.name) })
	return vs
}

func manyKeys(n int) (keys []ed25519.PrivateKey) {
	for i := range n {
		keys = append(keys, slotimagetest.Key(i+1))
	}
	return keys
}

func goodBlocks() []vector {
	longest := strings.Repeat("v", 128)
	long := goodJSON
	for _, s := range []string{"eos-test", "test-device", "amd64", "1.0-1", "6b1d2f3c", "zstd"} {
		long = strings.Replace(long, `"`+s+`"`, `"`+longest+`"`, 1)
	}
	version := strings.Replace(goodJSON, `"1.0-1"`, `"1:2.0~rc1+git-3_4"`, 1)
	good := signedPart(goodJSON)
	return []vector{
		{name: "ok-one-signature", expect: "ok", about: "one signature by the accepted key", bytes: sign(good, manyKeys(1)...)},
		{name: "ok-two-signatures", expect: "ok", about: "two signatures, one by the accepted key", bytes: sign(good, manyKeys(2)...)},
		{name: "ok-eight-signatures", expect: "ok", about: "as many signatures as there may be", bytes: sign(good, manyKeys(8)...)},
		{name: "ok-several-keys", expect: "ok", about: "the second of the accepted keys signed",
			keys:  []ed25519.PublicKey{slotimagetest.Public(9), slotimagetest.Public(1)},
			bytes: sign(good, manyKeys(1)...)},
		{name: "ok-long-strings", expect: "ok", about: "every string is as long as it may be", bytes: sign(signedPart(long), manyKeys(1)...)},
		{name: "ok-debian-version", expect: "ok", about: "a version with every sign that may be in one", bytes: sign(signedPart(version), manyKeys(1)...)},
	}
}

// headerVectors break the block around the JSON text.
func headerVectors() []vector {
	key := manyKeys(1)
	// changed is signed after the change: the signature is not what is wrong.
	changed := func(at int, b ...byte) []byte {
		s := signedPart(goodJSON)
		copy(s[at:], b)
		return sign(s, key...)
	}
	after := func(at int, b ...byte) []byte {
		s := sign(signedPart(goodJSON), key...)
		copy(s[at:], b)
		return s
	}
	u32 := func(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }
	n := uint32(len(goodJSON))
	return []vector{
		{name: "magic-zeros", expect: "no-manifest", about: "nothing but zeros", bytes: make([]byte, 4096)},
		{name: "magic-first-byte", expect: "no-manifest", about: "the first byte of the magic differs", bytes: changed(0, 'e')},
		{name: "magic-last-byte", expect: "no-manifest", about: "the last byte of the magic differs", bytes: changed(7, '2')},
		{name: "format-0", expect: "version", about: "format 0", bytes: changed(8, 0)},
		{name: "format-2", expect: "version", about: "format 2", bytes: changed(8, 2)},
		{name: "format-big-endian", expect: "version", about: "format 1 with the other byte order", bytes: changed(8, 0, 0, 0, 1)},
		{name: "block-short", expect: "format", about: "the block lacks its last byte", bytes: sign(signedPart(goodJSON), key...)[:4095]},
		{name: "block-long", expect: "format", about: "a byte follows the block", bytes: append(sign(signedPart(goodJSON), key...), 0)},
		{name: "length-zero", expect: "format", about: "the length of the JSON text is 0", bytes: changed(12, u32(0)...)},
		{name: "length-one-less", expect: "format", about: "the length lacks the last byte of the text", bytes: changed(12, u32(n-1)...)},
		{name: "length-one-more", expect: "format", about: "the length includes a zero after the text", bytes: changed(12, u32(n+1)...)},
		{name: "length-all", expect: "format", about: "the length includes all zeros after the text", bytes: changed(12, u32(3056)...)},
		{name: "length-into-signatures", expect: "format", about: "the length reaches one byte too far", bytes: changed(12, u32(3057)...)},
		{name: "length-huge", expect: "format", about: "the largest length", bytes: changed(12, u32(1<<32-1)...)},
		{name: "padding-after-text", expect: "format", about: "a byte right after the text", bytes: changed(16+int(n), 1)},
		{name: "padding-before-signatures", expect: "format", about: "a byte at the end of the signed part", bytes: changed(3071, 1)},
		{name: "padding-after-signatures", expect: "format", about: "a byte right after the signature", bytes: after(3076+96, 1)},
		{name: "padding-last-byte", expect: "format", about: "the last byte of the block", bytes: after(4095, 1)},
		{name: "count-0-with-signature", expect: "format", about: "the count hides a signature", bytes: after(3072, u32(0)...)},
		{name: "count-2-with-one", expect: "format", about: "the count promises a second signature", bytes: after(3072, u32(2)...)},
		{name: "count-9", expect: "format", about: "one signature too many", bytes: sign(signedPart(goodJSON), manyKeys(9)...)},
		{name: "count-huge", expect: "format", about: "the largest count", bytes: after(3072, u32(1<<32-1)...)},
		{name: "unsigned", expect: "unsigned", about: "no signature", bytes: sign(signedPart(goodJSON))},
	}
}

// jsonVectors break the JSON text, each with a right signature over it.
func jsonVectors() []vector {
	var vs []vector
	add := func(name, about, old, text string) {
		if strings.Count(goodJSON, old) != 1 {
			panic("vector " + name + " does not replace one thing")
		}
		text = strings.Replace(goodJSON, old, text, 1)
		vs = append(vs, vector{name: "json-" + name, expect: "format", about: about, bytes: sign(signedPart(text), manyKeys(1)...)})
	}
	hexSalt := "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	hexRoot := "d1e5f0b4c2a39687d1e5f0b4c2a39687d1e5f0b4c2a39687d1e5f0b4c2a39687"
	add("space", "a space after a colon", `"built":`, `"built": `)
	add("newline-at-end", "a newline after the object", `}`, "}\n")
	add("byte-order-mark", "a byte order mark first", `{`, "\ufeff{")
	add("two-objects", "a second object", `}`, "}{}")
	add("array", "an array around the object", goodJSON, "["+goodJSON+"]")
	add("null", "null for an object", goodJSON, "null")
	add("cut", "the closing brace is missing", `}`, "")
	add("order", "two members change places", `"name":"eos-test","class":"test-device"`, `"class":"test-device","name":"eos-test"`)
	add("member-unknown", "a member that nobody knows", `}`, `,"more":1}`)
	add("member-twice", "a member is there twice", `"arch":"amd64"`, `"arch":"arm64","arch":"amd64"`)
	add("member-missing", "a member is missing", `"class":"test-device",`, ``)
	add("member-null", "a member is null", `"test-device"`, `null`)
	add("member-upper-case", "a name in upper case", `"class"`, `"Class"`)
	add("escape", "a letter written as an escape", `"amd64"`, `"\u0061md64"`)
	add("not-utf-8", "a byte that is not UTF-8", `"amd64"`, "\"amd64\xff\"")
	add("not-ascii", "a letter outside of ASCII", `"amd64"`, `"ämd64"`)
	add("name-empty", "an empty name", `"eos-test"`, `""`)
	add("name-slash", "a name that is a path", `"eos-test"`, `"eos/test"`)
	add("name-dot-dot", "a name that begins with a dot", `"eos-test"`, `"..test"`)
	add("name-dash", "a name that looks like an option", `"eos-test"`, `"-eos-test"`)
	add("name-space", "a name with a space", `"eos-test"`, `"eos test"`)
	add("name-newline", "a name with a line break", `"eos-test"`, `"eos\ntest"`)
	add("name-long", "a name one byte too long", `"eos-test"`, `"`+strings.Repeat("n", 129)+`"`)
	add("version-empty", "an empty version", `"1.0-1"`, `""`)
	add("version-number", "a number for a string", `"1.0-1"`, `1.0`)
	add("class-escape-sequence", "a class that would colour a terminal", `"test-device"`, `"\u001b[31m"`)
	add("data-size-zero", "no data", `"data_size":8192,"image_size":16384`, `"data_size":0,"image_size":4096`)
	add("data-size-negative", "a negative size", `"data_size":8192`, `"data_size":-8192`)
	add("data-size-odd", "a size that is not whole blocks", `"data_size":8192`, `"data_size":8193`)
	add("data-size-too-large", "a block more than there may be", `"data_size":8192`, `"data_size":4398046515200`)
	add("data-size-overflow", "a size of more than 63 bits", `"data_size":8192`, `"data_size":9223372036854775808`)
	add("data-size-string", "a string for a number", `"data_size":8192`, `"data_size":"8192"`)
	add("data-size-exponent", "a number with an exponent", `"data_size":8192`, `"data_size":8192e0`)
	add("data-size-leading-zero", "a number with a zero in front", `"data_size":8192`, `"data_size":08192`)
	add("image-size-short", "an image size without the last block of the tree", `"image_size":16384`, `"image_size":12288`)
	add("image-size-long", "an image size of a block more", `"image_size":16384`, `"image_size":20480`)
	add("salt-upper-case", "a salt in upper case", hexSalt, strings.ToUpper(hexSalt))
	add("salt-short", "a salt of 31 bytes", hexSalt, hexSalt[2:])
	add("salt-zero", "a salt of zeros", hexSalt, strings.Repeat("0", 64))
	add("salt-not-hex", "a salt that is not hexadecimal", hexSalt, "g"+hexSalt[1:])
	add("root-hash-long", "a root hash of 33 bytes", hexRoot, hexRoot+"00")
	add("root-hash-zero", "a root hash of zeros", hexRoot, strings.Repeat("0", 64))
	add("level-negative", "a negative level", `"squashfs_level":15`, `"squashfs_level":-1`)
	add("level-100", "a level that no compressor has", `"squashfs_level":15`, `"squashfs_level":100`)
	add("built-negative", "built before 1970", `"built":1700000000`, `"built":-1`)
	add("built-fraction", "a time with a fraction", `"built":1700000000`, `"built":1700000000.5`)
	return vs
}

// signatureVectors break what signatures say, in blocks of good syntax.
func signatureVectors() []vector {
	good := signedPart(goodJSON)
	changed := func(b []byte, at int, x byte) []byte {
		b = slices.Clone(b)
		b[at] ^= x
		return b
	}
	one, two := slotimagetest.Key(1), slotimagetest.Key(2)
	// entry is a signature by key over message in the name of id.
	entry := func(id, key ed25519.PrivateKey, message []byte) []byte {
		sum := sha256.Sum256(id.Public().(ed25519.PublicKey))
		return slices.Concat(sum[:], ed25519.Sign(key, message))
	}
	message := slices.Concat([]byte(signingContext), good)
	byOne, byTwo := entry(one, one, message), entry(two, two, message)
	falseTwo := entry(two, one, message)
	pair := func(a, b []byte) [][]byte {
		if bytes.Compare(a, b) > 0 {
			a, b = b, a
		}
		return [][]byte{a, b}
	}
	reversed := pair(byOne, byTwo)
	slices.Reverse(reversed)

	// The same signature with the order of the group added to its second half
	// would verify with a careless implementation.
	malleable := slices.Clone(byOne)
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := slices.Clone(malleable[64:])
	slices.Reverse(s)
	sum := new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
	slices.Reverse(sum)
	copy(malleable[64:], sum)

	other := strings.Replace(goodJSON, `"1.0-1"`, `"1.0-2"`, 1)
	public := func(ns ...int) (keys []ed25519.PublicKey) {
		keys = []ed25519.PublicKey{}
		for _, n := range ns {
			keys = append(keys, slotimagetest.Public(n))
		}
		return keys
	}
	return []vector{
		{name: "signature-order", expect: "format", about: "signatures not in order of the keys", bytes: withEntries(good, reversed)},
		{name: "signature-twice", expect: "format", about: "the same signature twice", bytes: withEntries(good, [][]byte{byOne, byOne})},
		{name: "signature-first-bit", expect: "bad-signature", about: "one bit of the signature is flipped", bytes: changed(sign(good, one), 3076+32, 1)},
		{name: "signature-last-bit", expect: "bad-signature", about: "the last bit of the signature is flipped", bytes: changed(sign(good, one), 3076+95, 0x80)},
		{name: "signature-malleable", expect: "bad-signature", about: "the group order is added to the signature", bytes: withEntries(good, [][]byte{malleable})},
		{name: "signature-zeros", expect: "bad-signature", about: "a signature of zeros", bytes: withEntries(good, [][]byte{append(slices.Clone(byOne[:32]), make([]byte, 64)...)})},
		{name: "signature-of-other-text", expect: "bad-signature", about: "the version was changed after signing",
			bytes: withEntries(signedPart(other), [][]byte{byOne})},
		{name: "signature-without-context", expect: "bad-signature", about: "the block was signed without the context",
			bytes: withEntries(good, [][]byte{entry(one, one, good)})},
		{name: "signature-other-context", expect: "bad-signature", about: "the context is of version 2",
			bytes: withEntries(good, [][]byte{entry(one, one, slices.Concat([]byte("EOS slot manifest v2\x00"), good))})},
		{name: "signature-of-text-only", expect: "bad-signature", about: "only the JSON text was signed",
			bytes: withEntries(good, [][]byte{entry(one, one, []byte(signingContext+goodJSON))})},
		{name: "signature-false-name", expect: "bad-signature", about: "signed by another key in the name of the accepted one",
			bytes: withEntries(good, [][]byte{entry(one, two, message)})},
		{name: "signature-bad-beside-good", expect: "bad-signature", about: "two accepted keys, one of the signatures is wrong",
			keys: public(1, 2), bytes: withEntries(good, pair(byOne, falseTwo))},
		{name: "signature-bad-of-unknown", expect: "ok", about: "the wrong signature is by a key that is not accepted",
			bytes: withEntries(good, pair(byOne, falseTwo))},
		{name: "key-unknown", expect: "unknown-key", about: "signed by another key", keys: public(2), bytes: sign(good, one)},
		{name: "key-none", expect: "unknown-key", about: "no key is accepted", keys: public(), bytes: sign(good, one)},
		{name: "key-id-flipped", expect: "unknown-key", about: "one bit of the key's hash is flipped", bytes: changed(sign(good, one), 3076, 1)},
	}
}

// imageVectors break whole images of two data blocks and a tree of one.
func imageVectors(t *testing.T) []vector {
	image, _ := slotimagetest.Image(t, slotimagetest.Template(), 2, 5)
	one, _ := slotimagetest.Image(t, slotimagetest.Template(), 1, 5)
	changed := func(at int, b ...byte) []byte {
		c := slices.Clone(image)
		copy(c[at:], b)
		return c
	}
	u64 := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	v := func(name, expect, about string, b []byte) vector {
		return vector{name: "image-" + name, expect: expect, about: about, kind: "image", bytes: b}
	}
	// A good manifest of a filesystem of one block, where that of two belongs.
	foreign := slices.Clone(image)
	copy(foreign[8192:], one[4096:8192])
	return []vector{
		v("ok", "ok", "an image that is right", image),
		v("ok-in-partition", "ok", "bytes of an older image after the end", append(slices.Clone(image), 1, 2, 3)),
		v("ok-one-block", "ok", "an image without a tree", one),
		v("empty", "empty", "nothing but zeros", make([]byte, 16384)),
		v("no-bytes", "empty", "not a byte", []byte{}),
		v("short-superblock", "empty", "the end is within the superblock", image[:95]),
		v("superblock-block-size", "damaged-filesystem", "a block size that is no power of two", changed(12, 3)),
		v("superblock-length-0", "damaged-filesystem", "a filesystem of no length", changed(40, u64(0)...)),
		v("superblock-length-huge", "damaged-filesystem", "a length of 64 bits", changed(40, u64(1<<64-1)...)),
		v("longer-than-space", "too-large", "the filesystem is longer than the file", changed(40, u64(1<<30)...)),
		v("cut-in-manifest", "too-large", "the file ends within the manifest block", image[:8192+4095]),
		v("cut-in-tree", "too-large", "the last byte of the tree is missing", image[:16383]),
		v("manifest-cleared", "no-manifest", "the manifest block was not written", changed(8192, make([]byte, 4096)...)),
		v("manifest-moved", "no-manifest", "the superblock points a block too far", changed(40, u64(8193)...)),
		v("manifest-foreign", "mismatch", "the manifest of another, smaller filesystem", foreign),
		v("data-first-bit", "corrupt", "one bit of the time in the superblock is flipped", changed(8, image[8]^1)),
		v("data-padding", "corrupt", "a byte in the padding of the filesystem", changed(8191, 1)),
		v("tree-hash", "corrupt", "one bit of a hash is flipped", changed(12288, image[12288]^1)),
		v("tree-padding", "corrupt", "a byte in the padding of the tree", changed(16383, 1)),
		v("tree-cleared", "corrupt", "the tree was not written", changed(12288, make([]byte, 4096)...)),
	}
}
