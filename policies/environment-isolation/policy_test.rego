package environment_isolation_test

import data.environment_isolation

asks(trust_domain, segments, environment) := {
	"peer": {"trust_domain": trust_domain, "segments": segments},
	"resource": {"environment": environment},
}

verdict(asked) := answer if {
	answer := environment_isolation.decision with input as asked
}

test_within_one_environment if {
	every asked in [
		asks("prod.example.org", ["agents", "research"], "production"),
		asks("example.org", ["prod", "agents", "research"], "production"),
		asks("example.org", ["staging", "agents", "research"], "staging"),
	] {
		verdict(asked) == {"allowed": true, "reasons": []}
	}
}

test_never_across if {
	every asked in [
		asks("staging.example.org", ["agents", "research"], "production"),
		asks("prod.example.org", ["agents", "research"], "staging"),
		asks("example.org", ["dev", "agents", "research"], "production"),
		asks("example.org", ["prod", "agents", "research"], "test"),
	] {
		verdict(asked) == {"allowed": false, "reasons": ["other_environment"]}
	}
}

test_a_resource_that_stands_nowhere_is_in_no_environment if {
	verdict({"peer": {"trust_domain": "prod.example.org", "segments": ["a"]}}) == {
		"allowed": false,
		"reasons": ["other_environment"],
	}
}

test_who_belongs_nowhere if {
	every asked in [
		asks("example.com", ["prod"], "production"),
		asks("example.org", ["agents", "prod"], "production"),
		asks("example.org", [], "production"),
		{},
	] {
		verdict(asked) == {"allowed": false, "reasons": ["identity_of_no_environment"]}
	}
}

test_who_belongs_to_two if {
	answer := environment_isolation.decision with input as asks("example.org", ["prod"], "production")
		with data.environment_isolation.by_trust_domain as {"example.org": "staging"}
	answer == {"allowed": false, "reasons": ["identity_of_no_environment"]}
}
