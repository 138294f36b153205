module envoy_oracle

go 1.24
