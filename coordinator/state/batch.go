package state

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Batch is an entry of the log for several encoded commands. They get the entry's
// time, in milliseconds since 1970, when they are read again.
func Batch(at int64, commands [][]byte) ([]byte, error) {
	entry := &pb.Command{Version: Version, AtUnixMs: at, Body: &pb.Command_Batch{Batch: &pb.Batch{Commands: commands}}}
	data, err := proto.Marshal(entry)
	return data, fault.Wrap(fault.BadInput, "encode an entry of the log", err)
}

// Commands are the commands of an entry of the log: those of its batch, or the one
// that it is. An error of kind Garbage is an entry that is damaged.
func Commands(index uint64, data []byte) ([]*pb.Command, error) {
	entry, err := decode(index, data)
	if err != nil || entry.GetBatch() == nil {
		return []*pb.Command{entry}, err
	}
	if entry.GetVersion() != Version {
		return nil, unreadable(index, fmt.Sprintf("its version is %d, this coordinator reads %d", entry.GetVersion(), Version))
	}
	list := make([]*pb.Command, len(entry.GetBatch().GetCommands()))
	for i, one := range entry.GetBatch().GetCommands() {
		if list[i], err = decode(index, one); err != nil {
			return nil, err
		}
		list[i].AtUnixMs = entry.GetAtUnixMs()
	}
	return list, nil
}

func decode(index uint64, data []byte) (*pb.Command, error) {
	c := &pb.Command{}
	if err := proto.Unmarshal(data, c); err != nil {
		return nil, fault.Wrap(fault.Garbage, fmt.Sprintf("decode command %d", index), err)
	}
	return c, nil
}
