# A policy as it is written for Envoy with opa-envoy-plugin: it reads only what the plugin hands over, and answers as the plugin
# expects. The gate runs it as it stands; with the plugin, `source.principal` comes from Envoy's own mTLS.
package envoy.authz

import rego.v1

import input.attributes.request.http as http_request
import input.parsed_path

default allow := {"allowed": false, "http_status": 403, "body": "not one of your roles may do this"}

allow := {"allowed": true, "headers": {"x-roles": concat(",", roles_of_caller)}} if {
	some role in roles_of_caller
	some permission in role_permissions[role]
	permission.method == http_request.method
	permission.path == parsed_path
}

allow if {
	parsed_path == ["health"]
	http_request.method == "GET"
}

roles_of_caller contains role if some role in caller_roles[input.attributes.source.principal]

caller_roles := {
	"spiffe://example.org/agents/research": ["guest"],
	"spiffe://example.org/ops/console": ["guest", "admin"],
}

role_permissions := {
	"guest": [{"method": "GET", "path": ["people"]}],
	"admin": [{"method": "POST", "path": ["people"]}],
}
