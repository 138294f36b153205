package tool_segmentation_test

import data.tool_segmentation

support := "spiffe://example.org/agents/support"

research := "spiffe://example.org/agents/research"

posts(who, body) := {
	"peer": {"spiffe_id": who},
	"action": {"protocol": "http", "name": "POST"},
	"request": {"method": "POST", "path": "/mcp", "body": body},
}

calls(who, tool) := posts(who, {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool}})

grpc(who, method) := {
	"peer": {"spiffe_id": who},
	"action": {"protocol": "grpc", "name": method},
	"request": {"method": "POST"},
}

at(path, method) := {
	"peer": {"spiffe_id": research},
	"action": {"protocol": "http", "name": method},
	"request": {"method": method, "path": path},
}

verdict(asked) := answer if {
	answer := tool_segmentation.decision with input as asked
}

allowed := {"allowed": true, "reasons": []}

denied(reason) := {"allowed": false, "reasons": [reason]}

test_a_tool_of_a_granted_segment if {
	verdict(calls(support, "answer_ticket")) == allowed
	verdict(calls(research, "search_documents")) == allowed
	verdict(grpc(support, "support.v1.Tickets/Close")) == allowed
}

test_a_tool_of_another_segment if {
	verdict(calls(research, "answer_ticket")) == denied("tool_of_another_segment")
	verdict(calls(support, "read_salary")) == denied("tool_of_another_segment")
	verdict(grpc(research, "support.v1.Tickets/Close")) == denied("tool_of_another_segment")
}

test_a_tool_nobody_listed if {
	verdict(calls(support, "delete_everything")) == denied("tool_of_another_segment")
}

test_messages_around_a_call if {
	every method in ["initialize", "tools/list", "ping"] {
		verdict(posts(research, {"jsonrpc": "2.0", "id": 1, "method": method})) == allowed
	}
	every method in ["GET", "DELETE"] {
		verdict(at("/mcp", method)) == allowed
	}
}

test_what_is_no_call if {
	every body in [
		[{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "answer_ticket"}}],
		{"jsonrpc": "2.0", "id": 1, "method": "resources/read"},
		{"jsonrpc": "2.0", "id": 1, "method": "tools/call"},
		{"name": "answer_ticket"},
		"tools/call",
		null,
	] {
		verdict(posts(support, body)) == denied("not_a_tool_call")
	}
	every other in [{"method": "PUT"}, {"path": "/admin"}, {"path": "/mcp/x"}] {
		verdict(object.union(calls(support, "answer_ticket"), {"request": other})) == denied("not_a_tool_call")
	}
	verdict(at("/admin", "GET")) == denied("not_a_tool_call")
}

test_a_stranger_learns_nothing if {
	stranger := "spiffe://example.org/agents/other"
	verdict(posts(stranger, {"method": "tools/list"})) == denied("not_let_in")
	verdict(calls(stranger, "search_documents")) == {
		"allowed": false,
		"reasons": ["not_let_in", "tool_of_another_segment"],
	}
}

test_nothing_known_is_denied if {
	verdict({}) == {"allowed": false, "reasons": ["not_a_tool_call", "not_let_in"]}
}
