package bmcsim

import (
	"net/http"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

// failure is a reply with an error body.
func failure(status int, messages ...obj) reply {
	return reply{status: status, body: message.Error(messages...)}
}

// note is a reply whose body is a bare message without an error.
func note(status int, key string) reply { return reply{status: status, body: message.Note(key)} }

func success() reply { return note(http.StatusOK, "Success") }

func notFound(kind, id string) reply {
	return failure(http.StatusNotFound, message.New("ResourceNotFound", kind, id))
}

func badRequest(key string, args ...string) reply {
	return failure(http.StatusBadRequest, message.New(key, args...))
}

func internalError() reply {
	return failure(http.StatusInternalServerError, message.New("InternalError"))
}

// patch reads the body of a PATCH or a POST that makes something. The reply
// is only meaningful if found is false.
func (q *request) patch(fields ...input.Field) (v input.Values, r reply, found bool) {
	return taken(input.Change(q.header.Get("Content-Type"), q.body, fields...))
}

// action reads the body of an action.
func (q *request) action(fields ...input.Field) (v input.Values, r reply, found bool) {
	return taken(input.Action(q.header.Get("Content-Type"), q.body, fields...))
}

func taken(v input.Values, problems []obj) (input.Values, reply, bool) {
	if len(problems) > 0 {
		return nil, failure(http.StatusBadRequest, problems...), false
	}
	return v, reply{}, true
}
