package enroll

// Parse is parse, for tests.
var Parse = parse
