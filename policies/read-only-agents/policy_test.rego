package read_only_agents_test

import data.read_only_agents

asks(workload, method, sensitivity, effect) := {
	"workload": workload,
	"request": {"method": method},
	"resource": {"sensitivity": sensitivity, "effect": effect},
}

trusted := {"kind": "agent", "class": "high"}

verdict(asked) := answer if {
	answer := read_only_agents.decision with input as asked
}

test_an_agent_reads_under_a_lease if {
	verdict(asks(trusted, "GET", "medium", "read")) == {
		"allowed": true,
		"lease": {"max_age": "10m", "max_bytes_out": "64MiB"},
	}
}

test_a_write_is_denied_by_its_method_and_by_its_effect if {
	every asked in [asks(trusted, "POST", "low", "read"), asks(trusted, "GET", "low", "write")] {
		verdict(asked) == {"allowed": false, "reasons": ["agents_only_read"]}
	}
}

test_a_class_bounds_sensitivity if {
	every asked in [
		asks(trusted, "GET", "high", "read"),
		asks({"kind": "agent", "class": "low"}, "GET", "medium", "read"),
		asks({"kind": "agent", "class": "unheard of"}, "GET", "low", "read"),
		asks({"kind": "agent"}, "GET", "low", "read"),
	] {
		verdict(asked) == {"allowed": false, "reasons": ["too_sensitive"]}
	}
}

test_who_is_not_listed_is_no_agent if {
	every asked in [asks({"kind": "service", "class": "high"}, "GET", "low", "read"), asks({"class": "high"}, "GET", "low", "read")] {
		verdict(asked) == {"allowed": false, "reasons": ["not_a_known_agent"]}
	}
}

test_nothing_known_is_denied if {
	verdict({}) == {"allowed": false, "reasons": ["agents_only_read", "not_a_known_agent", "too_sensitive"]}
}

test_without_its_data_everything_is_denied if {
	answer := read_only_agents.decision with input as asks(trusted, "GET", "low", "read") with data.read_only_agents.kinds as []
	answer == {"allowed": false, "reasons": ["not_a_known_agent"]}
}
