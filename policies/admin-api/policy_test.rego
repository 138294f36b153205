package portcullis_test

import data.portcullis

research := {
	"spiffe_id": "spiffe://example.org/agents/research",
	"trust_domain": "example.org",
	"segments": ["agents", "research"],
}

ops := {
	"spiffe_id": "spiffe://example.org/ops/console",
	"trust_domain": "example.org",
	"segments": ["ops", "console"],
}

asks(peer, method, segments, resource) := {
	"peer": peer,
	"request": {"method": method, "segments": segments},
	"resource": resource,
}

read := {"sensitivity": "low", "effect": "read"}

test_research_reads_users if {
	asked := asks(research, "GET", ["v1", "users", "7"], {"sensitivity": "high", "effect": "read"})
	portcullis.decision == {"allowed": true} with input as asked
}

test_streams_hold_a_lease if {
	every stream in ["events", "export", "terminal"] {
		asked := asks(research, "GET", ["v1", stream], read)
		portcullis.decision == {"allowed": true, "lease": {"max_age": "1h"}} with input as asked
	}
}

test_a_call_is_a_stream_with_a_lease if {
	asked := asks(research, "POST", ["demo.v1.Users", "Watch"], read)
	portcullis.decision == {"allowed": true, "lease": {"max_age": "1h"}} with input as asked
}

test_a_closed_export_ends if {
	asked := asks(research, "GET", ["v1", "export"], read)
	verdict := portcullis.decision with input as asked with data.portcullis.export_open as false
	verdict == {"allowed": false, "reasons": ["export_closed"]}
}

test_a_new_user_starts_as_viewer if {
	asked := asks(research, "POST", ["v1", "users"], read)
	every body in [{"name": "eve"}, {"name": "eve", "role": "admin"}] {
		verdict := portcullis.decision with input as object.union(asked, {"request": {"body": body}})
		verdict == {"allowed": true, "rewrite": {"body": [{"op": "add", "path": "/role", "value": "viewer"}]}}
	}
}

test_a_viewer_needs_no_rewrite if {
	asked := asks(research, "POST", ["v1", "users"], read)
	viewer := object.union(asked, {"request": {"body": {"name": "eve", "role": "viewer"}}})
	portcullis.decision == {"allowed": true} with input as viewer
}

test_only_operators_destroy if {
	destroy := {"sensitivity": "high", "effect": "destroy"}
	portcullis.decision == {"allowed": true} with input as asks(ops, "DELETE", ["v1", "users", "7"], destroy)

	denied := portcullis.decision with input as asks(research, "DELETE", ["v1", "users", "7"], destroy)
	denied == {"allowed": false, "reasons": ["destroy_is_for_operators", "not_granted"]}
}

test_strangers_are_denied if {
	stranger := {"spiffe_id": "spiffe://example.org/agents/x", "trust_domain": "example.org", "segments": ["agents", "x"]}
	denied := portcullis.decision with input as asks(stranger, "GET", ["v1", "users"], read)
	denied == {"allowed": false, "reasons": ["not_granted"]}
}

test_nothing_is_denied if portcullis.decision == {"allowed": false, "reasons": ["not_granted"]} with input as {}
