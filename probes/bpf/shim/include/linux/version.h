#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
/* Never used: the programs are the same for all kernels. */
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
