/*
 * Lets libvirtd run its Xen driver on a machine without Xen: answers what would reach the hypervisor
 * or xenstored. Instead of creating a domain, it writes its libxl_domain_config as JSON to UUID.json
 * in the directory $LIBXL_JSON. Test aid only.
 * Build: gcc -shared -fPIC -o libvirt_offline.so libvirt_offline.c -lxenlight
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <libxl.h>

#define CPUS 4096

static char handle[1 << 16];

void *xc_interface_open(void *logger, void *dombuild_logger, unsigned flags) { return handle; }
int xc_interface_close(void *xch) { return 0; }
int xc_get_max_cpus(void *xch) { return CPUS; }
int xc_get_max_nodes(void *xch) { return 1; }
void *xs_open(unsigned long flags) { return handle; }
void *xs_daemon_open_readonly(void) { return handle; }
void xs_close(void *xsh) {}
void xs_daemon_close(void *xsh) {}
void *xs_read(void *xsh, unsigned transaction, const char *path, unsigned *length) { return NULL; }

int libxl_get_max_cpus(libxl_ctx *ctx) { return CPUS; }
int libxl_get_max_nodes(libxl_ctx *ctx) { return 1; }

/* A host with HVM, PV and hardware-assisted paging, of four cores. */
int libxl_get_physinfo(libxl_ctx *ctx, libxl_physinfo *info) {
    memset(info, 0, sizeof *info);
    info->threads_per_core = 1;
    info->cores_per_socket = info->nr_cpus = 4;
    info->max_cpu_id = 3;
    info->cpu_khz = 2000000;
    info->total_pages = 16ull << 40 >> 12;
    info->free_pages = info->total_pages;
    info->nr_nodes = 1;
    info->cap_hvm = info->cap_pv = info->cap_hap = 1;
    for (int i = 0; i < 4; i++) info->hw_cap[i] = 0xffffffff;
    return 0;
}

/* libvirt reads the kinds of guests from the capabilities, which it cuts up where they are. */
const libxl_version_info *libxl_get_version_info(libxl_ctx *ctx) {
    static libxl_version_info info = {
        .xen_version_major = 4,
        .xen_version_minor = 17,
        .xen_version_extra = "",
        .compiler = "",
        .compile_by = "",
        .compile_domain = "",
        .compile_date = "",
        .changeset = "",
        .pagesize = 4096,
        .commandline = "",
        .build_id = "",
    };
    info.capabilities = strdup("xen-3.0-x86_64 xen-3.0-x86_32p "
                               "hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 ");
    return &info;
}

libxl_numainfo *libxl_get_numainfo(libxl_ctx *ctx, int *count) {
    libxl_numainfo *node = calloc(1, sizeof *node);
    node->size = node->free = 16ull << 40;
    node->num_dists = 1;
    node->dists = calloc(1, sizeof *node->dists);
    node->dists[0] = 10;
    *count = 1;
    return node;
}

void libxl_numainfo_list_free(libxl_numainfo *list, int count) {}

libxl_cputopology *libxl_get_cpu_topology(libxl_ctx *ctx, int *count) {
    libxl_cputopology *cores = calloc(4, sizeof *cores);
    for (int i = 0; i < 4; i++) cores[i].core = i;
    *count = 4;
    return cores;
}

void libxl_cputopology_list_free(libxl_cputopology *list, int count) {}

int libxl_get_free_memory(libxl_ctx *ctx, uint64_t *kib) {
    *kib = 16ull << 30;
    return 0;
}

int libxl_get_free_memory_0x040700(libxl_ctx *ctx, uint32_t *kib) {
    *kib = UINT32_MAX;
    return 0;
}

/* Nothing runs but dom0. */
int libxl_domain_info(libxl_ctx *ctx, libxl_dominfo *info, uint32_t domid) {
    if (domid != 0) return ERROR_DOMAIN_NOTFOUND;
    if (info != NULL) {
        info->domid = 0;
        info->running = true;
        info->max_memkb = info->current_memkb = 1 << 20;
        info->vcpu_online = info->vcpu_max_id = 1;
    }
    return 0;
}

libxl_vcpuinfo *libxl_list_vcpu(libxl_ctx *ctx, uint32_t domid, int *vcpus, int *cpus) {
    *vcpus = *cpus = 0;
    return NULL;
}

int libxl_userdata_retrieve(libxl_ctx *ctx, uint32_t domid, const char *name, uint8_t **data,
                            int *length) {
    if (data != NULL) *data = NULL;
    if (length != NULL) *length = 0;
    return 0;
}

int libxl_userdata_store(libxl_ctx *ctx, uint32_t domid, const char *name, const uint8_t *data,
                         int length) {
    return 0;
}

int libxl_evenable_domain_death(libxl_ctx *ctx, uint32_t domid, libxl_ev_user user,
                                libxl_evgen_domain_death **event) {
    *event = (void *)handle;
    return 0;
}

void libxl_evdisable_domain_death(libxl_ctx *ctx, libxl_evgen_domain_death *event) {}

int libxl_domain_create_new(libxl_ctx *ctx, libxl_domain_config *config, uint32_t *domid,
                            const libxl_asyncop_how *how, const libxl_asyncprogress_how *console) {
    const unsigned char *u = config->c_info.uuid.uuid;
    const char *directory = getenv("LIBXL_JSON");
    char *json = libxl_domain_config_to_json(ctx, config);
    char path[4096];
    if (directory == NULL || json == NULL) abort();
    snprintf(path, sizeof path,
             "%s/%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x.json", directory,
             u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
             u[14], u[15]);
    FILE *file = fopen(path, "w");
    if (file == NULL || fputs(json, file) < 0 || fclose(file) != 0) abort();
    free(json);
    return ERROR_FAIL;
}
