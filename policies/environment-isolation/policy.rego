# METADATA
# title: Environment isolation
# description: >-
#   No identity of one environment reaches a resource of another. Where an identity belongs is told by its trust domain, or by
#   the first part of its path; where a resource stands, by the gate's configuration (`upstreams.<name>.environment`).
#   Isolation alone grants nothing else: combine it with a policy that does.
package environment_isolation

# METADATA
# title: The verdict
# description: What the gate asks for. `reasons` says why a request is denied, for the record.
# entrypoint: true
default decision := {"allowed": false, "reasons": ["no_policy"]}

decision := {"allowed": count(reasons) == 0, "reasons": sort([reason | some reason in reasons])}

# METADATA
# title: An identity belongs somewhere
# description: One that belongs nowhere, or to two environments, is let into none.
# custom:
#   controls:
#     owasp_nhi_2025: [NHI8]
#     nist_csf_2_0: [PR.AA-05]
reasons contains "identity_of_no_environment" if count(environments) != 1

# METADATA
# title: No crossing
# description: The environment of the caller and of the resource are the same.
# custom:
#   controls:
#     owasp_nhi_2025: [NHI8]
#     owasp_agentic_2026: [ASI07]
#     nist_csf_2_0: [PR.AA-05]
#     csa_maestro: [L4]
reasons contains "other_environment" if {
	count(environments) == 1
	not same
}

same if {
	some environment in environments
	environment == input.resource.environment
}

# METADATA
# title: Where the caller belongs
environments contains environment if {
	some environment in [data.environment_isolation.by_trust_domain[input.peer.trust_domain]]
}

environments contains environment if {
	names := data.environment_isolation.by_first_segment[input.peer.trust_domain]
	some environment in [names[input.peer.segments[0]]]
}
