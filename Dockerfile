# The image of all programs. `make images` lays out the root file system first: the three programs and the libraries
# that they load.
FROM scratch
COPY target/images/rootfs/ /
LABEL org.opencontainers.image.title="fairlead" \
      org.opencontainers.image.source="https://github.com/fairlead-dev/fairlead" \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-2.0-or-later AND LGPL-2.1-or-later"
ENV PATH=/usr/bin
USER 65532:65532
CMD ["/usr/bin/fairlead-controller", "--help"]
