package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const said = `{"Action":"start","Package":"a"}
{"Action":"run","Package":"a","Test":"TestThreat01Rogue"}
{"Action":"output","Package":"a","Test":"TestThreat01Rogue","Output":"pass\n"}
{"Action":"pass","Package":"a","Test":"TestThreat01Rogue/one"}
{"Action":"pass","Package":"a","Test":"TestThreat01Rogue"}
{"Action":"skip","Package":"a","Test":"TestThreat01RogueInNamespace"}
{"Action":"skip","Package":"a","Test":"TestThreat02Spoofed"}
{"Action":"pass","Package":"a"}
not JSON: a build's words
{"Action":"pass","Package":"b","Test":"TestThreat03OffLink"}
{"Action":"fail","Package":"b","Test":"TestThreat03OtherInterface"}
{"Action":"fail","Package":"b"}
{"Action":"fail","Package":"c"}
`

func TestARowIsAsGoodAsItsWorstTest(t *testing.T) {
	found, broken, err := collect(strings.NewReader(said))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"c"}, broken); diff != "" {
		t.Errorf("packages that broke without a failing test (-want +got):\n%s", diff)
	}
	all := []row{{1, "rogue", "told"}, {2, "spoofed", "ignored"}, {3, "off-link", "dropped"}, {4, "flood", "capped"}}
	var out bytes.Buffer
	if tell(&out, all, found) {
		t.Error("a row with a failed test is called good")
	}
	want := ` 1  withstood   rogue: told
      pass  TestThreat01Rogue
      skip  TestThreat01RogueInNamespace
 2  skipped     spoofed: ignored
      skip  TestThreat02Spoofed
 3  FAILED      off-link: dropped
      pass  TestThreat03OffLink
      fail  TestThreat03OtherInterface
 4  untested    flood: capped
threats: 1 of 4
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("the table (-want +got):\n%s", diff)
	}
}

func TestEveryRowIsThereOnce(t *testing.T) {
	all := parse(rows)
	if len(all) != 38 {
		t.Fatalf("%d rows", len(all))
	}
	for i, r := range all {
		if r.number != i+1 || r.attack == "" || r.expect == "" {
			t.Errorf("row %d is %+v", i+1, r)
		}
	}
}
