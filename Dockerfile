# The gateway as one static program in an otherwise empty image. docs/guide/container.md says how to run it,
# and what of this file has been tested.
#
#     docker build -t app-gateway .

# musl and not glibc: Docker before 20.10.10 answers EPERM to glibc's clone3, and no thread starts.
FROM rust:1.95-alpine AS builder

# gcc and musl-dev for aws-lc-sys, which needs a C compiler and nothing else on musl; make for jemalloc.
RUN apk add --no-cache ca-certificates gcc make musl-dev

WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY src src

# AWS_LC_SYS_USE_SYSTEM=0: from the bundled sources, whatever else this machine has installed.
# --target, even though it is the host's: the flag must not reach procedural macros, which cannot be static.
RUN target="$(rustc --print host-tuple)" \
 && AWS_LC_SYS_USE_SYSTEM=0 RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --release --locked --target "$target" --no-default-features --features jemalloc \
 && strip -o /app-gateway "target/$target/release/app-gateway"

# Static, or it would not start in an empty image; and able to say so.
RUN ! readelf --program-headers /app-gateway | grep -q INTERP \
 && /app-gateway --version


FROM scratch

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="app-gateway" \
      org.opencontainers.image.description="TLS reverse proxy in front of Hybrid Chat" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Roots, for upstreams that are verified by the system's.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=builder /app-gateway /app-gateway
COPY LICENSE /LICENSE
COPY config /etc/app-gateway

# Certificates are mounted, never copied. 4443 because an unprivileged user may not bind 443 on every
# kernel; it is published as 443. The forward proxy listens on all addresses of the container, because
# nothing outside reaches its loopback; its rules admit the clients of FORWARD_CLIENTS alone.
ENV CERT_DIR=/certs \
    HYBRID_CHAT_CA=/certs/hybrid-chat-ca.crt \
    LAN_PORT=4443 \
    FORWARD_ADDR=0.0.0.0

USER 10001:10001

# The LAN profile, the internet profile, the forward proxy, and the public components' own ports. The
# admin listener stays on loopback, inside.
EXPOSE 4443 8443 3128 8449 8451 8482 8495 8497

STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/app-gateway", "healthcheck"]

ENTRYPOINT ["/app-gateway"]
CMD ["run"]
