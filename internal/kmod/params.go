package kmod

import "strings"

// Params collects module parameters from the words of a kernel command line:
// "i6300esb.nowayout=1" becomes the parameter "nowayout=1" of i6300esb. The kernel does this
// itself only for what is built in. A word without a dot in front of its "=" is
// none of them, and neither are the words of the name spaces in except.
func Params(words []string, except ...string) map[string]string {
	params := map[string]string{}
words:
	for _, w := range words {
		key, value, hasValue := strings.Cut(w, "=")
		mod, param, ok := strings.Cut(key, ".")
		if !ok || mod == "" || param == "" {
			continue
		}
		for _, e := range except {
			if mod == e {
				continue words
			}
		}
		if hasValue {
			if strings.ContainsAny(value, " \t") {
				// A word came out of quotes on the command line; the
				// kernel's parameter parser wants them back.
				value = `"` + value + `"`
			}
			param += "=" + value
		}
		mod = Name(mod)
		if params[mod] != "" {
			params[mod] += " "
		}
		params[mod] += param
	}
	return params
}
