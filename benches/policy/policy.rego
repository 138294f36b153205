# The reference policy of `judge`: an agent's request is allowed when nothing speaks against it.
# Every rule is evaluated on an allow, because the reasons are a set; the path matches the last of the globs and the address
# the last of the networks: this is the full cost, without an early exit.
package portcullis

default decision := {"allowed": false, "reasons": ["no_policy"]}

decision := {"allowed": true, "reasons": []} if count(reasons) == 0

decision := {"allowed": false, "reasons": sort([reason | some reason in reasons])} if count(reasons) > 0

# Who is calling.

reasons contains "not_an_agent" if not startswith(input.peer.spiffe_id, "spiffe://example.org/agents/")

reasons contains "unknown_agent" if not agent

agent if data.agents[input.peer.spiffe_id]

# What it may do: agent → roles → methods and paths.

reasons contains "method_not_granted" if not method_granted

method_granted if {
	some role in data.agents[input.peer.spiffe_id].roles
	input.request.method in data.roles[role].methods
}

reasons contains "path_not_granted" if not path_granted

path_granted if glob.match("/v1/users/*", ["/"], input.request.path)

path_granted if glob.match("/v1/teams/*/members", ["/"], input.request.path)

path_granted if glob.match("/v1/reports/**", ["/"], input.request.path)

reasons contains "admin_area" if input.request.segments[1] == "admin"

reasons contains "export" if {
	input.request.segments[1] == "export"
	not input.request.method == "GET"
}

reasons contains "no_version" if not input.request.segments[0] in {"v1", "v2"}

# The grant it holds.

grant := data.grants[input.peer.spiffe_id]

reasons contains "no_grant" if not grant

reasons contains "grant_expired" if grant.expires <= input.time.seconds

reasons contains "grant_revoked" if grant.revoked

reasons contains "wrong_environment" if not input.environment in grant.environments

# How it has behaved.

reasons contains "risk" if input.session.denied >= 70

reasons contains "rewritten" if input.request.rewritten

# Where it comes from.

reasons contains "network" if not known_network

known_network if {
	some network in data.networks
	net.cidr_contains(network, input.connection.address)
}
