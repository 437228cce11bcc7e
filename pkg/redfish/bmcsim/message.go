package bmcsim

import (
	"net/http"

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
