# The gate as an image: portcullis run -c /etc/portcullis/gate.yaml, as uid 65532.
#
#   docker build -t portcullis .
#   docker run -v "$PWD/etc:/etc/portcullis:ro" -v portcullis:/var/lib/portcullis -p 8443:8443 portcullis
#
# `state.directory`, `audit.file` and `control.socket` belong beneath /var/lib/portcullis: the image is root's, and the gate is not root.
# charts/portcullis mounts its own places over both.
# The C of aws-lc and mimalloc is built with the gcc of the builder; bindings come with the crates, so neither cmake nor clang is needed.
FROM rust:1-bookworm AS builder
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist --bin portcullis
# There is no shell below to make it with.
RUN install -d -m 0700 /image/var/lib/portcullis

# glibc, libgcc and CA certificates, of the same Debian as the builder's; no shell and no package manager. What an operator needs in there
# is the gate itself: `docker exec … portcullis kill …`. No HEALTHCHECK: there is /readyz on the admin port, and nothing to ask it with.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=builder /src/target/dist/portcullis /usr/local/bin/portcullis
COPY --from=builder --chown=65532:65532 /image/var/lib/portcullis /var/lib/portcullis
USER 65532:65532
WORKDIR /var/lib/portcullis
ENTRYPOINT ["/usr/local/bin/portcullis"]
CMD ["run", "-c", "/etc/portcullis/gate.yaml"]
