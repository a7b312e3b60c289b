// Package arch holds the rules of this module that are tests: who may import whom, what
// eos-init must not link, that packages have a comment, how error texts begin, and that
// the tables in docs/ are those in the code.
//
// There is nothing to import. A rule that is in the way is changed here, with its reason,
// and not worked around.
package arch
