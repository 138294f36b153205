# METADATA
# title: Envoy migration
# description: >-
#   A policy as it is written for Envoy with opa-envoy-plugin: it reads what the plugin hands over, answers as the plugin
#   expects, and runs on both. What only the gate knows is asked for in rules of their own, which say nothing under Envoy.
package envoy.authz

import input.attributes.request.http as http_request

# METADATA
# title: The verdict
# description: The rule opa-envoy-plugin asks for by default. `reasons` is the gate's; Envoy ignores it.
# entrypoint: true
default allow := {"allowed": false, "http_status": 403, "reasons": ["no_policy"]}

allow := {"allowed": true, "headers": {"x-roles": concat(",", roles)}} if count(reasons) == 0

allow := {"allowed": false, "http_status": 403, "reasons": sort([reason | some reason in reasons])} if count(reasons) > 0

# METADATA
# title: Only what a role permits
# custom:
#   controls:
#     owasp_nhi_2025: [NHI5]
#     nist_csf_2_0: [PR.AA-05]
reasons contains "not_permitted" if not permitted

# METADATA
# title: Nothing sensitive without a short-lived certificate
# description: Known to the gate alone; under Envoy `input.resource` is absent and this rule says nothing.
# custom:
#   controls:
#     owasp_nhi_2025: [NHI7]
#     mitre_atlas: [AML.T0055]
reasons contains "certificate_lives_too_long" if {
	input.resource.sensitivity == "high"
	not short_lived
}

short_lived if input.peer.certificate.lifetime_seconds <= 3600

permitted if {
	some role, permissions in data.envoy.permissions
	role in roles
	some permission in permissions
	permission.method == http_request.method
	permission.path == input.parsed_path
}

roles contains role if {
	some role in data.envoy.roles[input.attributes.source.principal]
}
