package state_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func digest(n int) string { return "sha256:" + fmt.Sprintf("%064x", n) }

func putArtifact(name string, n int, holders ...string) *pb.Command {
	return &pb.Command{By: "ada", Body: &pb.Command_PutArtifact{PutArtifact: &pb.PutArtifact{Artifact: &pb.Artifact{
		Name: name, Digest: digest(n), Size: 10, Holders: holders, By: "ada",
	}}}}
}

func dropArtifact(n int) *pb.Command {
	return &pb.Command{Body: &pb.Command_RemoveArtifact{RemoveArtifact: &pb.RemoveArtifact{Digest: digest(n)}}}
}

func holds(n int, who string, lost bool) *pb.Command {
	return &pb.Command{Body: &pb.Command_HoldArtifact{HoldArtifact: &pb.HoldArtifact{Digest: digest(n), Holder: who, Lost: lost}}}
}

func TestTheLifeOfAnArtifact(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	l.must(putArtifact("bmc.tar", 1, "c1", "c2"))
	equal(t, "holders", l.must(holds(1, "c3", false)).Artifact.GetHolders(), []string{"c1", "c2", "c3"})
	equal(t, "holders when one has lost it", l.must(holds(1, "c1", true)).Artifact.GetHolders(), []string{"c2", "c3"})
	again := l.must(putArtifact("bmc-2.20", 1, "c1"))
	equal(t, "given again", []string{again.Artifact.GetName(), strings.Join(again.Artifact.GetHolders(), " ")}, []string{"bmc-2.20", "c1 c2 c3"})
	equal(t, "how many", len(l.Artifacts()), 1)
	refusedAs(t, l.try(putArtifact("bmc-2.20", 2, "c1")), fault.Conflict, "another file is called bmc-2.20")

	source := `(action "n1" (update-firmware bmc (image "` + digest(1) + `")))`
	l.must(apply(nil, runOf(source, "r1")))
	refusedAs(t, l.try(dropArtifact(1)), fault.Conflict, "needed by run R1")
	l.must(batch("a1", "r1", 1, done("R1", 1, 0)))
	l.must(apply(script("update", source), runOf("x", "r1")))
	refusedAs(t, l.try(dropArtifact(1)), fault.Conflict, "needed by script update")
	l.must(removeScript("update"))
	l.must(dropArtifact(1))
	refusedAs(t, l.try(dropArtifact(1)), fault.NotFound, "no artifact")
	refusedAs(t, l.try(holds(1, "c1", false)), fault.NotFound, "no artifact")
}

func TestArtifactsAreBounded(t *testing.T) {
	l := newLog(t)
	for i := range state.MaxArtifacts {
		l.must(putArtifact(fmt.Sprint("f", i), i, "c1"))
	}
	refusedAs(t, l.try(putArtifact("more", state.MaxArtifacts, "c1")), fault.TooLarge, "the limit")
	refusedAs(t, l.try(putArtifact("", 1, "c1")), fault.BadInput, "no name")
	refusedAs(t, l.try(putArtifact("f1", 1)), fault.BadInput, "nobody who has it")
	bad := putArtifact("x", 1, "c1")
	bad.GetPutArtifact().GetArtifact().Digest = "sha256:../../x"
	refusedAs(t, l.try(bad), fault.BadInput, "no digest")
}
