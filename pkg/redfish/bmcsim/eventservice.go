package bmcsim

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/events"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

const (
	eventServiceURI  = "/redfish/v1/EventService"
	subscriptionsURI = eventServiceURI + "/Subscriptions"
	streamURI        = eventServiceURI + "/SSE"
)

// eventSettings are what a client can change of the event service.
type eventSettings struct {
	Enabled  bool
	Attempts int
	Interval int // seconds
}

func eventRoutes() []route {
	return []route{
		{path: eventServiceURI, do: map[string]deed{
			http.MethodGet:   {auth.Login, getEventService},
			http.MethodPatch: {auth.ConfigureManager, patchEventService},
		}},
		{path: eventServiceURI + "/Actions/EventService.SubmitTestEvent", do: posts(auth.ConfigureManager, submitTestEvent)},
		{path: subscriptionsURI, do: map[string]deed{
			http.MethodGet:  {auth.Login, getSubscriptions},
			http.MethodPost: {auth.ConfigureComponents, postSubscription},
		}},
		{path: subscriptionsURI + "/{subscription}", do: map[string]deed{
			http.MethodGet:    {auth.Login, getSubscription},
			http.MethodPatch:  {auth.ConfigureComponents, patchSubscription},
			http.MethodDelete: {auth.ConfigureComponents, deleteSubscription},
		}},
	}
}

func getEventService(b *BMC, _ *request) reply {
	set := b.state.Events
	return ok(obj{
		"@odata.id": eventServiceURI, "@odata.type": "#EventService.v1_5_0.EventService",
		"Actions": obj{"#EventService.SubmitTestEvent": obj{
			"target": eventServiceURI + "/Actions/EventService.SubmitTestEvent",
		}},
		"DeliveryRetryAttempts": set.Attempts, "DeliveryRetryIntervalSeconds": set.Interval,
		"EventFormatTypes": []string{"Event", "MetricReport"}, "Id": "EventService", "Name": "Event Service",
		"RegistryPrefixes": events.Prefixes(), "ResourceTypes": []string{"Task", "Heartbeat"},
		"SSEFilterPropertiesSupported": obj{
			"EventFormatType": true, "MessageId": true, "MetricReportDefinition": true, "OriginResource": false,
			"RegistryPrefix": true, "ResourceType": false,
		},
		"ServerSentEventUri": streamURI, "ServiceEnabled": set.Enabled, "Status": obj{"State": "Enabled"},
		"Subscriptions": hardware.Link(subscriptionsURI),
	})
}

func patchEventService(b *BMC, q *request) reply {
	v, r, valid := q.patch(input.Field{Path: "ServiceEnabled", Kind: input.Bool},
		input.Field{Path: "DeliveryRetryAttempts", Kind: input.Int}, input.Field{Path: "DeliveryRetryIntervalSeconds", Kind: input.Int})
	if !valid {
		return r
	}
	set := b.state.Events
	if on, given := v.Bool("ServiceEnabled"); given {
		set.Enabled = on
	}
	for _, limit := range []struct {
		path      string
		low, high int
		to        *int
	}{{"DeliveryRetryAttempts", 1, 3, &set.Attempts}, {"DeliveryRetryIntervalSeconds", 5, 180, &set.Interval}} {
		n, given := v.Int(limit.path)
		if given && (n < limit.low || n > limit.high) {
			return badRequest("PropertyValueOutOfRange", strconv.Itoa(n), limit.path)
		}
		if given {
			*limit.to = n
		}
	}
	b.state.Events, q.dirty = set, true
	b.subscribe()
	return noContent()
}

// subscribe tells the hub what the state says.
func (b *BMC) subscribe() {
	set := b.state.Events
	b.hub.Configure(events.Retries{Attempts: set.Attempts, Interval: time.Duration(set.Interval) * time.Second}, b.state.Trust.Roots())
	if !set.Enabled {
		b.hub.Subscribe(nil)
		return
	}
	b.hub.Subscribe(b.state.Subscriptions)
}

// unreachable is called when the retries of a subscription have run out.
func (b *BMC) unreachable(id, policy string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.subscriptionIndex(id)
	if i < 0 {
		return
	}
	b.state.Subscriptions = slices.Clone(b.state.Subscriptions)
	if policy == events.Suspend {
		b.state.Subscriptions[i].Suspended = true
	} else {
		b.state.Subscriptions = slices.Delete(b.state.Subscriptions, i, i+1)
	}
	b.subscribe()
	_ = b.state.save(b.cfg.StateFile) // nobody asked; the next change tries again
}

func (b *BMC) subscriptionIndex(id string) int {
	return slices.IndexFunc(b.state.Subscriptions, func(s events.Subscription) bool { return s.ID == id })
}

func submitTestEvent(b *BMC, q *request) reply {
	v, r, valid := q.action(input.Field{Path: "EventId"}, input.Field{Path: "EventTimestamp"}, input.Field{Path: "Message"},
		input.Field{Path: "MessageArgs", Kind: input.Texts}, input.Field{Path: "MessageId"}, input.Field{Path: "OriginOfCondition"},
		input.Field{Path: "Severity"}, input.Field{Path: "EventGroupId", Kind: input.Int})
	if !valid {
		return r
	}
	b.hub.Tell(func(id int) events.Event { return events.Test(id, v) })
	return noContent()
}

func getSubscriptions(b *BMC, _ *request) reply {
	ids := b.hub.Streams()
	for _, s := range b.state.Subscriptions {
		ids = append(ids, s.ID)
	}
	slices.Sort(ids)
	return collection(subscriptionsURI, "EventDestinationCollection", "Event Destination Collections", ids, nil)
}

func getSubscription(b *BMC, q *request) reply {
	id := q.args["subscription"]
	if slices.Contains(b.hub.Streams(), id) {
		return ok(events.Subscription{ID: id, Policy: events.Terminate, Verify: true}.Body(subscriptionsURI, "SSE"))
	}
	i := b.subscriptionIndex(id)
	if i < 0 {
		return notFound("EventDestination", id)
	}
	return ok(b.state.Subscriptions[i].Body(subscriptionsURI, "RedfishEvent"))
}

func postSubscription(b *BMC, q *request) reply {
	v, r, valid := q.patch(
		input.Field{Path: "Destination", Need: true}, input.Field{Path: "Protocol", Need: true}, input.Field{Path: "Context"},
		input.Field{Path: "DeliveryRetryPolicy"}, input.Field{Path: "EventFormatType"}, input.Field{Path: "SubscriptionType"},
		input.Field{Path: "HttpHeaders", Kind: input.Objects}, input.Field{Path: "MessageIds", Kind: input.Texts},
		input.Field{Path: "RegistryPrefixes", Kind: input.Texts}, input.Field{Path: "ResourceTypes", Kind: input.Texts},
		input.Field{Path: "MetricReportDefinitions", Kind: input.Objects}, input.Field{Path: "OriginResources", Kind: input.Objects},
		input.Field{Path: "VerifyCertificate", Kind: input.Bool}, input.Field{Path: "SendHeartbeat", Kind: input.Bool},
		input.Field{Path: "HeartbeatIntervalMinutes", Kind: input.Int},
	)
	if !valid {
		return r
	}
	if len(b.state.Subscriptions)+len(b.hub.Streams()) >= events.MaxSubscriptions {
		return failure(http.StatusServiceUnavailable, message.New("EventSubscriptionLimitExceeded"))
	}
	if problem := events.Problem(v); problem != nil {
		return failure(http.StatusBadRequest, problem)
	}
	s := events.NewSubscription(v)
	var err error
	if s.ID, err = events.NewID(b.cfg.Rand); err != nil {
		return internalError()
	}
	b.state.Subscriptions = append(slices.Clone(b.state.Subscriptions), s)
	b.subscribe()
	q.dirty = true
	r = note(http.StatusCreated, "Created")
	r.set("Location", subscriptionsURI+"/"+s.ID)
	return r
}

func patchSubscription(b *BMC, q *request) reply {
	i := b.subscriptionIndex(q.args["subscription"])
	if i < 0 {
		return notFound("EventDestination", q.args["subscription"])
	}
	v, r, valid := q.patch(input.Field{Path: "Context"}, input.Field{Path: "DeliveryRetryPolicy"},
		input.Field{Path: "VerifyCertificate", Kind: input.Bool}, input.Field{Path: "HttpHeaders", Kind: input.Objects},
		input.Field{Path: "SendHeartbeat", Kind: input.Bool}, input.Field{Path: "HeartbeatIntervalMinutes", Kind: input.Int})
	if !valid {
		return r
	}
	if problem := events.PolicyProblem(v); problem != nil {
		return failure(http.StatusBadRequest, problem)
	}
	b.state.Subscriptions = slices.Clone(b.state.Subscriptions)
	b.state.Subscriptions[i].Change(v)
	b.subscribe()
	q.dirty = true
	return reply{status: http.StatusOK}
}

func deleteSubscription(b *BMC, q *request) reply {
	i := b.subscriptionIndex(q.args["subscription"])
	if i < 0 {
		return notFound("EventDestination", q.args["subscription"])
	}
	b.state.Subscriptions = slices.Delete(slices.Clone(b.state.Subscriptions), i, i+1)
	b.subscribe()
	q.dirty = true
	return success()
}
