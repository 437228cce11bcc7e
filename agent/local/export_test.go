package local

// CodeOf is codeOf.
var CodeOf = codeOf
