# METADATA
# title: SPIFFE path roles
# description: >-
#   The path of a SPIFFE ID gives roles, and roles give methods on paths. In a pattern `*` is any one part, and a last `**`
#   any rest, also none. Parts are compared whole, so `ns/bill` is never taken for `ns/billing`.
package path_roles

# METADATA
# title: The verdict
# description: What the gate asks for. `reasons` says why a request is denied, for the record.
# entrypoint: true
default decision := {"allowed": false, "reasons": ["no_policy"]}

decision := {"allowed": count(reasons) == 0, "reasons": sort([reason | some reason in reasons])}

# METADATA
# title: Only who has a role
# description: An identity of another trust domain has none, whatever its path.
# custom:
#   controls:
#     owasp_nhi_2025: [NHI5]
#     owasp_agentic_2026: [ASI03]
#     nist_csf_2_0: [PR.AA-05]
#     nist_ai_rmf_1_0: [GOVERN 2.1]
#     mitre_atlas: [AML.T0012]
reasons contains "no_role" if count(roles) == 0

# METADATA
# title: Only what a role grants
# description: Least privilege, written as data that a reviewer can read.
# custom:
#   controls:
#     owasp_nhi_2025: [NHI5, NHI9]
#     nist_csf_2_0: [PR.AA-05]
#     csa_maestro: [L6]
reasons contains "not_granted" if {
	count(roles) > 0
	not granted
}

# METADATA
# title: Roles of the caller
roles contains role if {
	some row in data.path_roles.roles_of
	row.trust_domain == input.peer.trust_domain
	matches(row.path, input.peer.segments)
	some role in row.roles
}

granted if {
	some role, grants in data.path_roles.grants
	role in roles
	some grant in grants
	input.request.method in grant.methods
	matches(grant.path, input.request.segments)
}

# METADATA
# title: Path pattern
matches(pattern, segments) if {
	not "**" in pattern
	count(pattern) == count(segments)
	each_matches(pattern, segments)
}

matches(pattern, segments) if {
	last := count(pattern) - 1
	pattern[last] == "**"
	count(segments) >= last
	each_matches(array.slice(pattern, 0, last), segments)
}

each_matches(parts, segments) if {
	every index, part in parts {
		part in {"*", segments[index]}
	}
}
