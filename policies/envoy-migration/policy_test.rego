package envoy_test

import data.envoy.authz

asks(principal, method, path) := {
	"attributes": {
		"source": {"principal": principal},
		"request": {"http": {"method": method, "path": concat("/", array.concat([""], path))}},
	},
	"parsed_path": path,
}

research := "spiffe://example.org/agents/research"

console := "spiffe://example.org/ops/console"

verdict(asked) := answer if {
	answer := authz.allow with input as asked
}

denied(reason) := {"allowed": false, "http_status": 403, "reasons": [reason]}

test_as_under_envoy if {
	verdict(asks(research, "GET", ["people"])) == {"allowed": true, "headers": {"x-roles": "guest"}}
	verdict(asks(console, "POST", ["people"])) == {"allowed": true, "headers": {"x-roles": "admin,guest"}}
	verdict(asks(research, "POST", ["people"])) == denied("not_permitted")
	verdict(asks(research, "GET", ["people", "7"])) == denied("not_permitted")
	verdict(asks("spiffe://example.org/agents/other", "GET", ["people"])) == denied("not_permitted")
	verdict({}) == denied("not_permitted")
}

with_facts(sensitivity, certificate) := object.union(
	asks(research, "GET", ["people"]),
	{"resource": {"sensitivity": sensitivity}, "peer": {"certificate": certificate}},
)

test_what_only_the_gate_knows if {
	verdict(with_facts("high", {"lifetime_seconds": 3600})).allowed
	verdict(with_facts("low", {"lifetime_seconds": 86400})).allowed
	verdict(with_facts("high", {"lifetime_seconds": 86400})) == denied("certificate_lives_too_long")
	verdict(with_facts("high", {})) == denied("certificate_lives_too_long")
}
