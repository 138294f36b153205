# METADATA
# title: Tool segmentation
# description: >-
#   Tools lie in segments, and each identity is let into some of them. A tool is the name in an MCP `tools/call`
#   (JSON-RPC in a POST), or a gRPC method. A batch, a body that is no call and a tool nobody listed are denied.
package tool_segmentation

# METADATA
# title: The verdict
# description: What the gate asks for. `reasons` says why a request is denied, for the record.
# entrypoint: true
default decision := {"allowed": false, "reasons": ["no_policy"]}

decision := {"allowed": count(reasons) == 0, "reasons": sort([reason | some reason in reasons])}

# METADATA
# title: Only who is let in
# description: An identity without a row uses no tool, and does not even learn which there are.
# custom:
#   controls:
#     owasp_nhi_2025: [NHI5]
#     owasp_agentic_2026: [ASI03]
#     mitre_atlas: [AML.T0084]
#     nist_csf_2_0: [PR.AA-05]
reasons contains "not_let_in" if not known

# METADATA
# title: Only what is understood
# description: What is neither a call of a tool nor one of the messages around it is not guessed at.
# custom:
#   controls:
#     owasp_agentic_2026: [ASI02]
#     csa_maestro: [L3]
reasons contains "not_a_tool_call" if {
	count(tools) == 0
	not around_a_call
}

# METADATA
# title: Only tools of its segments
# description: A tool that lies in no segment is in nobody's.
# custom:
#   controls:
#     owasp_agentic_2026: [ASI02]
#     mitre_atlas: [AML.T0053, AML.T0086]
#     nist_csf_2_0: [PR.AA-05]
#     csa_maestro: [L3, L7]
reasons contains "tool_of_another_segment" if {
	count(tools) > 0
	not granted
}

known if data.tool_segmentation.let_into[input.peer.spiffe_id]

granted if {
	some segment in data.tool_segmentation.let_into[input.peer.spiffe_id]
	some tool in tools
	tool in data.tool_segmentation.segments[segment]
}

# METADATA
# title: The tool that is called
# description: None or one. A set, because the engine tells an empty one from a mistake.
tools contains tool if {
	input.action.protocol == "grpc"
	tool := input.action.name
}

tools contains tool if {
	posted
	input.request.body.method == "tools/call"
	tool := input.request.body.params.name
}

around_a_call if {
	posted
	input.request.body.method in data.tool_segmentation.handshake
}

# The stream on which an MCP server speaks first, and the end of a session.
around_a_call if {
	at_an_endpoint
	input.request.method in {"GET", "DELETE"}
}

posted if {
	at_an_endpoint
	input.request.method == "POST"
}

at_an_endpoint if {
	input.action.protocol == "http"
	input.request.path in data.tool_segmentation.endpoints
}
