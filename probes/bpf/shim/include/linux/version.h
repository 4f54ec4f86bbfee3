#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
/* Never asked for: the programs do not differ between kernels. */
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
