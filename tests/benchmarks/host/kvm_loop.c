/*
 * What KVM itself costs: runs the bare-metal guest and answers each of its accesses with as little as can be.
 *
 *   kvm_loop ELF CMDLINE
 *
 * A serial port that only sends, to stdout; 0xf4 ends it; all else reads as 0x5a5a5a5a.
 */
#include <elf.h>
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEMORY (256u << 20)
#define START_INFO 0x6000
#define CMDLINE 0x7000
#define PVH_MAGIC 0x336ec578
#define PVH_CMDLINE 24
#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define TSS_ADDRESS 0xfffbd000ul
#define CPUID_ENTRIES 256

static int checked(int result, const char *what)
{
    if (result < 0)
        err(1, "%s", what);
    return result;
}

/* Loads the program; its PVH entry. */
static uint32_t load(uint8_t *memory, const char *path)
{
    static uint8_t file[1 << 20];
    int fd = checked(open(path, O_RDONLY | O_CLOEXEC), path);
    ssize_t size = read(fd, file, sizeof file);
    close(fd);
    if (size < (ssize_t)sizeof(Elf64_Ehdr) || size == (ssize_t)sizeof file)
        errx(1, "%s: not the guest", path);

    const Elf64_Ehdr *header = (void *)file;
    const Elf64_Phdr *segments = (void *)(file + header->e_phoff);
    uint32_t entry = 0;
    for (int i = 0; i < header->e_phnum; i++) {
        const Elf64_Phdr *s = segments + i;
        if (s->p_type == PT_LOAD)
            memcpy(memory + s->p_paddr, file + s->p_offset, s->p_filesz);
        if (s->p_type == PT_NOTE) {
            const Elf64_Nhdr *note = (void *)(file + s->p_offset);
            if (note->n_type == XEN_ELFNOTE_PHYS32_ENTRY)
                memcpy(&entry, (const uint8_t *)(note + 1) + 4, sizeof entry);
        }
    }
    if (!entry)
        errx(1, "%s: no PVH entry", path);
    return entry;
}

static int make_vcpu(int kvm, int vm, uint32_t entry)
{
    static struct {
        struct kvm_cpuid2 header;
        struct kvm_cpuid_entry2 entries[CPUID_ENTRIES];
    } cpuid = {.header.nent = CPUID_ENTRIES};
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = entry, .rbx = START_INFO, .rflags = 2};
    int vcpu = checked(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");

    checked(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
    checked(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
    checked(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    struct kvm_segment data = {.limit = ~0u, .selector = 0x18, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    data.selector = 0x10;
    data.type = 0xb;
    sregs.cs = data;
    sregs.cr0 = 0x11; /* PE, ET */
    sregs.cr4 = sregs.efer = 0;
    checked(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    checked(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
    return vcpu;
}

static void answer_port(struct kvm_run *run)
{
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    size_t size = (size_t)run->io.size * run->io.count;

    if (run->io.direction == KVM_EXIT_IO_IN) {
        memset(data, run->io.port == 0x3fd ? 0x60 : 0x5a, size);
    } else if (run->io.port == 0x3f8) {
        if (write(1, data, size) < 0)
            err(1, "stdout");
    } else if (run->io.port == 0xf4) {
        exit(0);
    }
}

int main(int argc, char **argv)
{
    if (argc != 3 || strlen(argv[2]) > 2047)
        errx(2, "usage: kvm_loop ELF CMDLINE");
    int kvm = checked(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    int vm = checked(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    checked(ioctl(vm, KVM_SET_TSS_ADDR, TSS_ADDRESS), "KVM_SET_TSS_ADDR");
    checked(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
    uint8_t *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        err(1, "mmap");
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY, .userspace_addr = (uintptr_t)memory};
    checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");

    int vcpu = make_vcpu(kvm, vm, load(memory, argv[1]));
    *(uint32_t *)(memory + START_INFO) = PVH_MAGIC;
    *(uint64_t *)(memory + START_INFO + PVH_CMDLINE) = CMDLINE;
    strcpy((char *)memory + CMDLINE, argv[2]);

    int size = checked(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
    struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        err(1, "mmap");
    for (;;) {
        checked(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
        switch (run->exit_reason) {
        case KVM_EXIT_IO:
            answer_port(run);
            break;
        case KVM_EXIT_MMIO:
            if (!run->mmio.is_write)
                memset(run->mmio.data, 0x5a, run->mmio.len);
            break;
        default:
            errx(3, "exit reason %u", run->exit_reason);
        }
    }
}
