/*
 * Lets `xl -N create -d FILE` parse a config and print what it understood on a machine without
 * Xen, by answering the few calls that would reach the hypervisor or xenstored. Test aid only.
 * Build: gcc -shared -fPIC -o xl_offline.so xl_offline.c
 */
#include <stdint.h>
#include <stdlib.h>

#define CPUS 4096

typedef struct {
    uint32_t size;
    uint8_t *map;
} bitmap;

static char handle[1 << 16];

void *xc_interface_open(void *logger, void *dombuild_logger, unsigned flags) { return handle; }
int xc_interface_close(void *xch) { return 0; }
void *xs_open(unsigned long flags) { return handle; }
void xs_close(void *xsh) {}
int xc_get_max_cpus(void *xch) { return CPUS; }
int xc_get_max_nodes(void *xch) { return 1; }
int libxl_get_max_cpus(void *ctx) { return CPUS; }
int libxl_get_online_cpus(void *ctx) { return CPUS; }
int libxl_get_max_nodes(void *ctx) { return 1; }

/* A host of one node: nr_nodes is after five uint32_t and seven uint64_t (libxl_types.idl, 4.17). */
int libxl_get_physinfo(void *ctx, void *physinfo) {
    *(uint32_t *)((char *)physinfo + 80) = 1;
    return 0;
}

static int allocate(bitmap *b, int bits) {
    b->size = (bits + 7) / 8;
    b->map = calloc(1, b->size);
    return b->map ? 0 : -1;
}

int libxl_cpu_bitmap_alloc(void *ctx, bitmap *b, int bits) {
    return allocate(b, bits > 0 ? bits : CPUS);
}

int libxl_node_bitmap_alloc(void *ctx, bitmap *b, int bits) {
    return allocate(b, bits > 0 ? bits : 1);
}

/* Two ints and pointers to strings; every string empty. */
const void *libxl_get_version_info(void *ctx) {
    static char empty[] = "";
    static void *info[256];
    for (int i = 0; i < 256; i++) info[i] = empty;
    ((int *)info)[0] = 4;
    ((int *)info)[1] = 17;
    return info;
}
