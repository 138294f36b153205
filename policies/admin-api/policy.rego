# METADATA
# title: Admin API
# description: Who may do what to the admin API. Everything that no rule allows is denied.
package portcullis

# METADATA
# title: The verdict
# description: What the gate asks for. `reasons` says why a request is denied, for the record.
# entrypoint: true
default decision := {"allowed": false, "reasons": ["no_policy"]}

decision := object.union({"allowed": true}, edits) if count(reasons) == 0

decision := {"allowed": false, "reasons": sort([reason | some reason in reasons])} if count(reasons) > 0

# METADATA
# title: Why not
# description: Each rule names one reason to deny. A request passes when there is none.
# custom:
#   controls:
#     owasp_nhi_2025: [NHI5]
#     owasp_agentic_2026: [ASI03]
#     nist_csf_2_0: [PR.AA-05]
reasons contains "not_granted" if not granted

# METADATA
# title: Who may destroy
# custom:
#   controls:
#     owasp_agentic_2026: [ASI02]
#     nist_csf_2_0: [PR.AA-05]
#     mitre_atlas: [AML.T0101]
reasons contains "destroy_is_for_operators" if {
	input.resource.effect == "destroy"
	not operator
}

reasons contains "export_closed" if {
	resource == "export"
	not data.portcullis.export_open
}

# What a request is for: the part of the path after the version.
resource := input.request.segments[1]

# Operators are all workloads beneath /ops.
operator if {
	input.peer.trust_domain == "example.org"
	input.peer.segments[0] == "ops"
}

# METADATA
# title: What is granted
# description: Operators may destroy. Every other grant stands in data.portcullis.roles.
granted if {
	operator
	input.request.method == "DELETE"
	input.resource.effect == "destroy"
}

granted if {
	some role in data.portcullis.roles
	input.peer.spiffe_id in role.workloads
	some grant in role.grants
	grant.method == input.request.method
	matches(grant.path, input.request.segments)
	sensitivity in grant.sensitivities
}

# A resource the configuration does not classify is taken for sensitive.
default sensitivity := "high"

sensitivity := input.resource.sensitivity

# METADATA
# title: Path pattern
# description: True when each part of the pattern is the path's part, or `*`.
matches(pattern, segments) if {
	count(pattern) == count(segments)
	every index, part in pattern {
		part in {"*", segments[index]}
	}
}

# METADATA
# title: What changes on the way
# description: A stream holds a lease, and whoever is created starts as a viewer.
default edits := {}

edits := {"lease": data.portcullis.stream_lease} if {
	resource in data.portcullis.streams
} else := {"rewrite": {"body": [{"op": "add", "path": "/role", "value": "viewer"}]}} if {
	input.request.method == "POST"
	resource == "users"
	not input.request.body.role == "viewer"
}
