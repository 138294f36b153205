# METADATA
# title: Several policies as one
# description: >-
#   A request passes when each policy allows it. One that is missing allows nothing.
package portcullis

# METADATA
# title: The verdict
# entrypoint: true
default decision := {"allowed": false, "reasons": ["no_policy"]}

decision := {"allowed": true} if each_allows

decision := {"allowed": false, "reasons": sort([reason | some reason in reasons])} if not each_allows

each_allows if {
	data.environment_isolation.decision.allowed == true
	data.path_roles.decision.allowed == true
}

reasons contains reason if some reason in data.environment_isolation.reasons

reasons contains reason if some reason in data.path_roles.reasons
