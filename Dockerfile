# The gate as an image: portcullis run -c /etc/portcullis/gate.yaml, as uid 65532.
#
#   docker build -t portcullis .
#   docker run -v "$PWD/etc:/etc/portcullis:ro" -v portcullis:/var/lib/portcullis -p 8443:8443 portcullis
#
# `state.directory`, `audit.file` and `control.socket` belong beneath /var/lib/portcullis: the image is root's, and the gate is not root.
# The C of aws-lc and mimalloc is built with the gcc of the builder; bindings come with the crates, so neither cmake nor clang is needed.
FROM rust:1-bookworm AS builder
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist --bin portcullis

FROM debian:bookworm-slim
COPY --from=builder /src/target/dist/portcullis /usr/local/bin/portcullis
RUN install -d -m 0700 -o 65532 -g 65532 /var/lib/portcullis
USER 65532:65532
WORKDIR /var/lib/portcullis
ENTRYPOINT ["portcullis"]
CMD ["run", "-c", "/etc/portcullis/gate.yaml"]
