package path_roles_test

import data.path_roles

asks(trust_domain, path, method, segments) := {
	"peer": {"trust_domain": trust_domain, "segments": path},
	"request": {"method": method, "segments": segments},
}

reporter := ["ns", "sales", "sa", "reporter"]

biller := ["ns", "billing", "sa", "worker"]

verdict(asked) := answer if {
	answer := path_roles.decision with input as asked
}

allowed := {"allowed": true, "reasons": []}

test_a_reader_reads_everything_beneath_v1 if {
	every segments in [["v1"], ["v1", "users"], ["v1", "users", "7", "notes"]] {
		verdict(asks("example.org", reporter, "GET", segments)) == allowed
	}
}

test_roles_of_several_rows_add_up if {
	verdict(asks("example.org", ["ns", "billing", "sa", "reporter"], "PUT", ["v1", "invoices", "7"])) == allowed
	verdict(asks("example.org", biller, "GET", ["v1", "invoices", "7"])) == allowed
}

test_what_no_role_grants if {
	every asked in [
		asks("example.org", reporter, "DELETE", ["v1", "users", "7"]),
		asks("example.org", biller, "POST", ["v1", "invoices"]),
		asks("example.org", biller, "POST", ["v1", "invoices", "7", "lines"]),
		asks("example.org", ["ops", "console"], "DELETE", ["v1", "users"]),
		asks("example.org", reporter, "GET", ["v2", "users"]),
		asks("example.org", reporter, "GET", []),
		asks("example.org", reporter, "get", ["v1"]),
	] {
		verdict(asked) == {"allowed": false, "reasons": ["not_granted"]}
	}
}

test_parts_are_whole_and_the_trust_domain_counts if {
	every asked in [
		asks("example.com", ["ops", "console"], "GET", ["v1"]),
		asks("example.org", ["ns", "bill", "sa", "worker"], "GET", ["v1"]),
		asks("example.org", ["ns", "billing-x", "sa", "worker"], "GET", ["v1"]),
		asks("example.org", ["ops", "console", "7"], "GET", ["v1"]),
		asks("example.org", ["ops"], "GET", ["v1"]),
		asks("example.org", [], "GET", ["v1"]),
	] {
		verdict(asked) == {"allowed": false, "reasons": ["no_role"]}
	}
}

test_nothing_known_is_denied if {
	verdict({}) == {"allowed": false, "reasons": ["no_role"]}
}
