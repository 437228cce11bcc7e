package redfish

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
)

// maxTags bounds how many entity tags a client remembers.
const maxTags = 64

// Patch changes the resource at uri. A write is never repeated once it may
// have reached the BMC: see Uncertain. A refusal that only asks for the
// resource's tag is certain to have done nothing: it is answered with the tag,
// a few times at most, because some resources change their tag at every read.
func (c *Client) Patch(ctx context.Context, uri string, body any) (*Reply, error) {
	req, err := newWrite(http.MethodPatch, uri, body)
	if err != nil {
		return nil, err
	}
	if c.matches() != IfMatchNever {
		req.ifMatch = c.firstTag(ctx, uri)
	}
	tried := []string{req.ifMatch}
	for {
		reply, err := c.call(ctx, req)
		if err == nil {
			c.forgetTag(uri)
			return reply, nil
		}
		if !wantsTag(err) {
			return nil, err
		}
		c.mu.Lock()
		c.tagged = true // from now on it gets one unasked
		c.mu.Unlock()
		if req.ifMatch = c.nextTag(ctx, uri, tried); req.ifMatch == "" {
			return nil, err
		}
		tried = append(tried, req.ifMatch)
	}
}

// wantsTag reports whether a refusal is about the tag alone.
func wantsTag(err error) bool {
	var status *StatusError
	if !errors.As(err, &status) {
		return false
	}
	return status.Status == http.StatusPreconditionRequired || status.Status == http.StatusPreconditionFailed ||
		status.Says("PreconditionRequired") || status.Says("PreconditionFailed") || status.Says("PreconditionHeaderMissing")
}

// matches is how If-Match is sent to this BMC, as its make says and as it has
// shown.
func (c *Client) matches() IfMatch {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tagged && c.profile.IfMatch == IfMatchNever {
		return IfMatchAlways
	}
	return c.profile.IfMatch
}

// firstTag is the tag to begin with: the one last seen, else one that is read
// for it, in the form that the make wants; "" if there is none.
func (c *Client) firstTag(ctx context.Context, uri string) string {
	c.mu.Lock()
	tag := c.tags[uri]
	c.mu.Unlock()
	if tag == "" {
		tag = c.readTag(ctx, uri)
	}
	if forms := c.forms(tag); len(forms) > 0 {
		return forms[0]
	}
	return ""
}

// maxTagTries bounds how often one change is sent for the sake of its tag.
const maxTagTries = 4

// nextTag is a tag that was not refused yet, "" if there is nothing left to try:
// the present one, in its own form and in the plain one, and at last any (*).
func (c *Client) nextTag(ctx context.Context, uri string, tried []string) string {
	if len(tried) >= maxTagTries {
		return ""
	}
	forms := append(c.forms(c.readTag(ctx, uri)), "*")
	for _, f := range forms {
		if !slices.Contains(tried, f) {
			return f
		}
	}
	return ""
}

// forms are the ways to send a tag, the one that the make wants first.
func (c *Client) forms(tag string) []string {
	if tag == "" {
		return nil
	}
	all := []string{tag, plainTag(tag)}
	if c.matches() == IfMatchQuoted {
		slices.Reverse(all)
	}
	return slices.Compact(all)
}

// plainTag is a tag in one pair of quotes and without W/, however it was
// written: `W/"7"`, `""7""`, `7`.
func plainTag(tag string) string {
	return `"` + strings.Trim(strings.TrimPrefix(tag, "W/"), `"\`) + `"`
}

// readTag asks for the resource's tag, "" if there is none.
func (c *Client) readTag(ctx context.Context, uri string) string {
	reply, err := c.call(ctx, request{method: http.MethodGet, uri: uri})
	if err != nil {
		return "" // the write tells what is wrong
	}
	return tagOf(reply)
}

// tagOf is the entity tag of an answer: of the header, else of the body.
func tagOf(reply *Reply) string {
	if tag := reply.Header.Get("ETag"); tag != "" {
		return tag
	}
	var doc struct {
		Tag Text `json:"@odata.etag"`
	}
	_ = Decode(reply.Body, &doc) // no JSON, no tag
	return short(string(doc.Tag))
}

// keepTag remembers the tag of what was read, where writes need one.
func (c *Client) keepTag(uri string, reply *Reply) {
	if c.matches() == IfMatchNever {
		return
	}
	tag := tagOf(reply)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tags) >= maxTags {
		clear(c.tags)
	}
	if c.tags[uri] = tag; tag == "" {
		delete(c.tags, uri)
	}
}

func (c *Client) forgetTag(uri string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tags, uri)
}
