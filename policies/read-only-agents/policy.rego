# METADATA
# title: Read-only agents
# description: Agents may look, up to the sensitivity their class is trusted with, and change nothing. Who is no agent is denied too.
package read_only_agents

# METADATA
# title: The verdict
# description: An allow is a lease. `reasons` says why a request is denied, for the record.
# entrypoint: true
default decision := {"allowed": false, "reasons": ["no_policy"]}

decision := {"allowed": true, "lease": data.read_only_agents.lease} if count(reasons) == 0

decision := {"allowed": false, "reasons": sort([reason | some reason in reasons])} if count(reasons) > 0

# METADATA
# title: Only whom we know as an agent
# description: The configuration's table `workloads` says what an identity is; what it does not list is nothing.
# custom:
#   controls:
#     owasp_nhi_2025: [NHI5]
#     nist_csf_2_0: [PR.AA-05]
#     nist_ai_rmf_1_0: [GOVERN 1.6]
#     csa_maestro: [L7]
reasons contains "not_a_known_agent" if not known_agent

# METADATA
# title: Nothing is changed
# description: Both the method and what the configuration says of the resource must be a read; either alone can be forgotten.
# custom:
#   controls:
#     owasp_nhi_2025: [NHI5]
#     owasp_agentic_2026: [ASI02]
#     mitre_atlas: [AML.T0101]
#     nist_csf_2_0: [PR.AA-05]
reasons contains "agents_only_read" if not reads

# METADATA
# title: Not above its class
# description: How sensitive a resource may be is a matter of the workload's class.
# custom:
#   controls:
#     owasp_agentic_2026: [ASI03]
#     mitre_atlas: [AML.T0086]
#     csa_maestro: [L2]
reasons contains "too_sensitive" if not within_class

known_agent if input.workload.kind in data.read_only_agents.kinds

reads if {
	input.request.method in data.read_only_agents.methods
	input.resource.effect == "read"
}

within_class if {
	most := data.read_only_agents.reads_up_to[input.workload.class]
	rank[input.resource.sensitivity] <= rank[most]
}

rank := {"low": 0, "medium": 1, "high": 2}
